"""A cross-encoder as a scorer of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.batching.jobs import Priority
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.core.cutting import Cutter
from rerank_plugins.core.engine import Engine
from rerank_plugins.core.loading import ModelSettings
from rerank_plugins.core.pairing import PairedTask, together
from rerank_plugins.core.policy import ScoringConfig
from rerank_plugins.core.protocols import CrossEncoderBackend, Role
from rerank_plugins.core.scored import Scored, Scorer, Task
from rerank_plugins.core.shared_model import SharedModel
from rerank_plugins.core.types import TextPair
from rerank_plugins.errors import ConfigurationError


class _Options(TypedDict):
    max_length: int | None
    priority: Priority
    wait: bool


class ModelScorer(SharedModel[TextPair]):
    """Scores tasks with the one engine that this process has for a cross-encoder."""

    _kind = "cross-encoder"
    _protocol = CrossEncoderBackend

    def __init__(
        self,
        model: str | Path | ModelSettings | CrossEncoderBackend,
        config: ScoringConfig,
        **settings: Any,  # noqa: ANN401  (the other fields of ModelConfig)
    ) -> None:
        """Check the settings; the model is loaded later.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        self._config = config
        super().__init__(model, max_length=config.max_length, **settings)

    def score_tasks(self, tasks: Sequence[Task], deadline: float | None = None) -> list[Scored]:
        """Score the documents of each task; see :class:`~rerank_plugins.core.scored.Scorer`."""
        engine = self.engine
        paired = self._pair(engine, tasks)
        pairs, places = together(paired, in_turns=deadline is not None)
        computed = engine.compute(pairs, deadline=deadline, **self._options)
        return _shares(engine, paired, places, computed)

    async def ascore_tasks(
        self, tasks: Sequence[Task], deadline: float | None = None
    ) -> list[Scored]:
        """Do the same without blocking the event loop; see :meth:`score_tasks`."""
        engine = await self._aengine()
        if self._config.long_documents == "windows":
            paired = await asyncio.to_thread(self._pair, engine, tasks)
        else:
            paired = self._pair(engine, tasks)
        pairs, places = together(paired, in_turns=deadline is not None)
        computed = await engine.acompute(pairs, deadline=deadline, **self._options)
        return _shares(engine, paired, places, computed)

    def compute(self, pairs: Sequence[TextPair]) -> Computed:
        """Score pairs as they are, without prompts and windows."""
        return self.engine.compute(pairs, **self._options)

    @property
    def _options(self) -> _Options:
        return {
            "max_length": self._config.max_length,
            "priority": self._config.priority,
            "wait": self._config.overload == "wait",
        }

    def _pair(self, engine: Engine[TextPair], tasks: Sequence[Task]) -> list[PairedTask]:
        config = self._config
        prompts = prompts_of(engine.prompts, config)
        cut = None
        if config.long_documents == "windows":
            before = prompts["document"]
            cut = Cutter(engine.backend, config.max_length, config.window_overlap, before)
        return [PairedTask(task, config, prompts, cut) for task in tasks]


def prompts_of(own: Mapping[Role, str], config: ScoringConfig) -> dict[Role, str]:
    """Return what goes before queries and documents; what was set beats the model's own."""
    given: dict[Role, str | None] = {
        "query": config.query_prompt,
        "document": config.document_prompt,
    }
    return {role: own.get(role, "") if prompt is None else prompt for role, prompt in given.items()}


def _shares(
    engine: Engine[TextPair],
    paired: Sequence[PairedTask],
    places: Sequence[list[int]],
    computed: Computed,
) -> list[Scored]:
    """Give each task its part of what was computed together."""
    return [
        task.scored(computed.part(own), engine.identity, engine.scale)
        for task, own in zip(paired, places, strict=True)
    ]


def scorer_of(
    model: str | Path | ModelSettings | CrossEncoderBackend | Scorer,
    config: ScoringConfig,
    **settings: Any,  # noqa: ANN401  (the other fields of ModelConfig)
) -> Scorer:
    """Return a scorer for whatever a reranker takes as its model.

    Raises:
        ConfigurationError: If a setting is out of range, or is one of a single model and the
            model is a scorer of its own.
    """
    if not isinstance(model, Scorer):
        return ModelScorer(model, config, **settings)
    usual = asdict(ModelConfig()) | asdict(ScoringConfig())
    given = asdict(config) | settings
    odd = [name for name, value in given.items() if value != usual[name]]
    if odd:
        message = (
            f"model is a {type(model).__name__}, and {odd[0]} is {given[odd[0]]!r}: that is a "
            "setting of a single model. Set it on the stages."
        )
        raise ConfigurationError(message)
    return model
