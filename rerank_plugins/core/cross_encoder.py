"""A cross-encoder as a scorer of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from rerank_plugins.config import ModelConfig, ModelSpec, Priority, ScoringConfig
from rerank_plugins.core.ranking import validate_scores
from rerank_plugins.core.windows import WindowSplitter, thin_out
from rerank_plugins.engine.backend import CrossEncoderBackend, Role
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.registry import EngineClient
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import (
    NOT_SCORED,
    RankingStats,
    Scorer,
    ScoringRequest,
    ScoringResult,
    TextPair,
    Window,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rerank_plugins.config import ScoringConfig
    from rerank_plugins.engine.backend import Role
    from rerank_plugins.engine.request import RequestOutput
    from rerank_plugins.types import ModelIdentity, ScoreScale

    Cut = Callable[[str, list[str]], list[list[Window]]]
    """Windows of each document, given the query with its prompt and the documents."""


class PairedTask:
    """A task as text pairs: one a window, identical ones merged.

    Attributes:
        pairs: The unique pairs, in the order of the documents.
    """

    def __init__(
        self,
        task: ScoringRequest,
        config: ScoringConfig,
        prompts: Mapping[Role, str],
        cut: Cut | None,
    ) -> None:
        """Put prompts before the texts and cut long documents.

        Args:
            task: What to score.
            config: How.
            prompts: What goes before queries and documents.
            cut: How to find windows; None leaves documents whole.
        """
        self._config = config
        query = prompts.get("query", "") + task.query
        whole = [[Window(0, len(text))] for text in task.texts]
        found = whole if cut is None else cut(query, task.texts)
        self._windows = [thin_out(windows, config.max_windows) for windows in found]
        self._thinned = np.array(
            [len(kept) < len(all_) for kept, all_ in zip(self._windows, found, strict=True)],
            dtype=np.bool_,
        )
        before = prompts.get("document", "")
        parts = [
            before + (text if len(windows) == 1 else text[window.start : window.end])
            for text, windows in zip(task.texts, self._windows, strict=True)
            for window in windows
        ]
        position = {part: number for number, part in enumerate(dict.fromkeys(parts))}
        self.pairs = [TextPair(query, part) for part in position]
        self._pair_of = np.array([position[part] for part in parts], dtype=np.intp)

    def scored(
        self, computed: RequestOutput, model: ModelIdentity, scale: ScoreScale
    ) -> ScoringResult:
        """Return the documents' scores, given those of :attr:`pairs`.

        A document counts as scored once all of its windows are.

        Raises:
            InvalidScoresError: If a score is missing or not finite.
        """
        done = computed.done
        validate_scores(computed.values[done], int(done.sum()))
        values = computed.values[self._pair_of]
        counts = np.array([len(windows) for windows in self._windows], dtype=np.intp)
        starts = np.cumsum(counts) - counts
        complete = np.logical_and.reduceat(done[self._pair_of], starts)
        scores = np.where(complete, values[starts], np.float32(np.nan))
        windows: list[Window | None] = [None] * len(counts)
        for document in np.flatnonzero((counts > 1) & complete):
            own = values[starts[document] : starts[document] + counts[document]]
            best = np.sort(own)[::-1][: self._config.best_windows]
            scores[document] = best.mean(dtype=np.float64)
            windows[document] = self._windows[document][int(own.argmax())]
        cut = np.logical_or.reduceat(computed.truncated[self._pair_of], starts) | self._thinned
        return ScoringResult(
            scores=scores,
            stage=np.where(complete, 0, NOT_SCORED),
            truncated=cut,
            windows=windows,
            model=model,
            scale=scale,
            stats=RankingStats(
                documents=len(counts),
                scored=int(complete.sum()),
                pairs=len(self.pairs),
                tokens=int(computed.tokens.sum()),
                truncated=int(cut.sum()),
                batches=computed.batches,
                cache_hits=computed.cache_hits,
                disk_hits=computed.disk_hits,
                queue_s=computed.queue_s,
                compute_s=computed.compute_s,
            ),
            status="complete" if complete.all() else "partial",
            scoring=self._config,
        )


def together(
    tasks: Sequence[PairedTask], *, in_turns: bool
) -> tuple[list[TextPair], list[list[int]]]:
    """Return the pairs of all tasks as one list.

    Args:
        tasks: Whose pairs.
        in_turns: Whether the first pair of each goes first, so that all have their share of a
            deadline. Otherwise a task's pairs stand together, and its query is tokenized once.

    Returns:
        The pairs, and for each task where its own are among them.
    """
    order = [(turn, number) for number, task in enumerate(tasks) for turn in range(len(task.pairs))]
    if in_turns:
        order.sort()
    places: list[list[int]] = [[] for _ in tasks]
    for place, (_, number) in enumerate(order):
        places[number].append(place)
    return [tasks[number].pairs[turn] for turn, number in order], places


class _Options(TypedDict):
    max_length: int | None
    priority: Priority
    wait: bool


class ModelScorer(EngineClient[TextPair]):
    """Scores tasks with the one engine that this process has for a cross-encoder."""

    _kind = "cross-encoder"
    _protocol = CrossEncoderBackend

    def __init__(
        self,
        model: str | Path | ModelSpec | CrossEncoderBackend,
        config: ScoringConfig,
        **settings: Any,  # noqa: ANN401  (the other fields of ModelConfig)
    ) -> None:
        """Check the settings; the model is loaded later.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        self._config = config
        super().__init__(model, max_length=config.max_length, **settings)

    def score_requests(
        self, tasks: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Score the documents of each task; see :class:`~rerank_plugins.types.Scorer`."""
        engine = self.engine
        paired = self._pair(engine, tasks)
        pairs, places = together(paired, in_turns=deadline is not None)
        computed = engine.compute(pairs, deadline=deadline, **self._options)
        return _shares(engine, paired, places, computed)

    async def ascore_requests(
        self, tasks: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Do the same without blocking the event loop; see :meth:`score_requests`."""
        engine = await self._aengine()
        if self._config.long_documents == "windows":
            paired = await asyncio.to_thread(self._pair, engine, tasks)
        else:
            paired = self._pair(engine, tasks)
        pairs, places = together(paired, in_turns=deadline is not None)
        computed = await engine.acompute(pairs, deadline=deadline, **self._options)
        return _shares(engine, paired, places, computed)

    def compute(self, pairs: Sequence[TextPair]) -> RequestOutput:
        """Score pairs as they are, without prompts and windows."""
        return self.engine.compute(pairs, **self._options)

    @property
    def _options(self) -> _Options:
        return {
            "max_length": self._config.max_length,
            "priority": self._config.priority,
            "wait": self._config.overload == "wait",
        }

    def _pair(self, engine: Engine[TextPair], tasks: Sequence[ScoringRequest]) -> list[PairedTask]:
        config = self._config
        prompts = prompts_of(engine.prompts, config)
        cut = None
        if config.long_documents == "windows":
            before = prompts["document"]
            cut = WindowSplitter(engine.backend, config.max_length, config.window_overlap, before)
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
    computed: RequestOutput,
) -> list[ScoringResult]:
    """Give each task its part of what was computed together."""
    return [
        task.scored(computed.select(own), engine.identity, engine.scale)
        for task, own in zip(paired, places, strict=True)
    ]


def scorer_of(
    model: str | Path | ModelSpec | CrossEncoderBackend | Scorer,
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
