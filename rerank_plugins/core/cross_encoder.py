"""Cross-encoder scoring: documents become unique text pairs, pair scores become document scores.

:class:`CrossEncoderScorer` puts prompts before the texts, splits long documents into windows,
merges identical pairs, and has the engine score them together with the pairs of all other
callers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rerank_plugins.config import (
    MINI,
    ModelSettings,
    RerankerSettings,
    ScoringSettings,
    Windows,
)
from rerank_plugins.core.ranking import validate_scores
from rerank_plugins.core.steps import Step, Steps, arun, in_thread, run
from rerank_plugins.core.windows import WindowSplitter, subsample
from rerank_plugins.engine.backend import CrossEncoderBackend, Role
from rerank_plugins.engine.engine import ClosableMixin, Engine
from rerank_plugins.engine.registry import EngineClient
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import (
    NOT_SCORED,
    ModelIdentity,
    RankingStats,
    Scorer,
    ScoreScale,
    ScoringRequest,
    ScoringResult,
    TextPair,
    Window,
)

Splitter = Callable[[str, list[str]], list[list[Window]]]
"""Returns the windows of each document, given the query with its prompt and the documents."""


class StepScorer(ClosableMixin):
    """A scorer whose work is one generator of steps, for synchronous and asynchronous callers."""

    @abstractmethod
    def steps(
        self, requests: Sequence[ScoringRequest], deadline: float | None
    ) -> Steps[list[ScoringResult]]:
        """Score the documents of each request; see :class:`~rerank_plugins.types.Scorer`."""

    def score_requests(
        self, requests: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Score the documents of each request; see :class:`~rerank_plugins.types.Scorer`."""
        return run(self.steps(requests, deadline))

    async def ascore_requests(
        self, requests: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Score without blocking the event loop; see :meth:`score_requests`."""
        return await arun(self.steps(requests, deadline))


def scoring_steps(
    scorer: Scorer, requests: Sequence[ScoringRequest], deadline: float | None
) -> Steps[list[ScoringResult]]:
    """Score requests with any scorer, also one that knows no steps."""
    if isinstance(scorer, StepScorer):
        return (yield from scorer.steps(requests, deadline))
    results: list[ScoringResult] = yield Step(
        lambda: scorer.score_requests(requests, deadline),
        lambda: scorer.ascore_requests(requests, deadline),
    )
    return results


class CrossEncoderScorer(StepScorer):
    """Scores documents with the one engine that this process has for a cross-encoder.

    Attributes:
        client: Access to the engine.
    """

    def __init__(self, settings: RerankerSettings) -> None:
        """Validate the settings; the model is loaded later.

        Raises:
            ConfigurationError: If the model is neither a name, a folder, a spec nor a backend.
        """
        self._settings = ScoringSettings.model_construct(
            **{name: getattr(settings, name) for name in ScoringSettings.model_fields}
        )
        self.client: EngineClient[TextPair] = EngineClient(
            "cross-encoder",
            CrossEncoderBackend,
            settings,
            max_length=settings.max_length,
            optimize=settings.optimize,
        )
        self._windows = self._settings.windows

    @property
    def name(self) -> str:
        """Name of the model, whether or not it is loaded."""
        return self.client.name

    def steps(
        self, requests: Sequence[ScoringRequest], deadline: float | None
    ) -> Steps[list[ScoringResult]]:
        """Score the documents of each request in shared batches."""
        engine: Engine[TextPair] = yield Step(lambda: self.client.engine, self.client.aengine)
        if self._windows is None:
            batches = self._pair(engine, requests)
        else:  # Splitting tokenizes whole documents.
            batches = yield in_thread(self._pair, engine, requests)
        pairs, positions = interleave(batches, round_robin=deadline is not None)
        options: dict[str, Any] = {
            "max_length": self._settings.max_length,
            "priority": self._settings.priority,
            "wait": self._settings.when_full == "wait",
            "deadline": deadline,
        }
        output: RequestOutput = yield Step(
            lambda: engine.compute(pairs, **options),
            lambda: engine.acompute(pairs, **options),
        )
        return [
            batch.result(output.select(rows), engine.identity, engine.scale)
            for batch, rows in zip(batches, positions, strict=True)
        ]

    def warm_up(self) -> None:
        """Load the model."""
        self.client.warm_up()

    def close(self) -> None:
        """Release the model; the next request loads it again."""
        self.client.close()

    def _pair(
        self, engine: Engine[TextPair], requests: Sequence[ScoringRequest]
    ) -> list[PairBatch]:
        prompts = effective_prompts(engine.prompts, self._settings)
        splitter = None
        if self._windows is not None:
            splitter = WindowSplitter(
                engine.backend,
                self._settings.max_length,
                self._windows.overlap,
                prompts["document"],
            )
        return [PairBatch(request, self._settings, prompts, splitter) for request in requests]


class PairBatch:
    """The text pairs of one request: one per window, identical pairs merged.

    Attributes:
        pairs: The unique pairs, in the order of the documents.
    """

    def __init__(
        self,
        request: ScoringRequest,
        settings: ScoringSettings,
        prompts: Mapping[Role, str],
        splitter: Splitter | None,
    ) -> None:
        """Put prompts before the texts and split long documents.

        Args:
            request: The query and its documents.
            settings: How the texts are read.
            prompts: Texts before queries and documents.
            splitter: Splits documents into windows; None leaves them whole.
        """
        self._settings = settings
        query = prompts.get("query", "") + request.query
        all_windows = [[Window(0, len(text))] for text in request.texts]
        self._windows, self._top_k = all_windows, 1
        if splitter is not None:
            all_windows = splitter(query, request.texts)
            limits = settings.windows or Windows()
            self._windows = [subsample(windows, limits.max_windows) for windows in all_windows]
            self._top_k = limits.top_k
        self._subsampled = np.array(
            [
                len(kept) < len(every)
                for kept, every in zip(self._windows, all_windows, strict=True)
            ],
            dtype=np.bool_,
        )
        prompt = prompts.get("document", "")
        parts = [
            prompt + (text if len(windows) == 1 else text[window.start : window.end])
            for text, windows in zip(request.texts, self._windows, strict=True)
            for window in windows
        ]
        position = {part: number for number, part in enumerate(dict.fromkeys(parts))}
        self.pairs = [TextPair(query, part) for part in position]
        self._pair_of_part = np.array([position[part] for part in parts], dtype=np.intp)

    def result(
        self, output: RequestOutput, model: ModelIdentity, scale: ScoreScale
    ) -> ScoringResult:
        """Return the scores of the documents, given those of :attr:`pairs`.

        A document counts as scored once all of its windows are.

        Raises:
            InvalidScoresError: If a score is missing or not finite.
        """
        done = output.done
        validate_scores(output.values[done], int(done.sum()))
        values = output.values[self._pair_of_part]
        counts = np.array([len(windows) for windows in self._windows], dtype=np.intp)
        starts = np.cumsum(counts) - counts
        complete = np.logical_and.reduceat(done[self._pair_of_part], starts)
        scores = np.where(complete, values[starts], np.float32(np.nan))
        best: list[Window | None] = [None] * len(counts)
        for document in np.flatnonzero((counts > 1) & complete):
            of_windows = values[starts[document] : starts[document] + counts[document]]
            top_k = np.sort(of_windows)[::-1][: self._top_k]
            scores[document] = top_k.mean(dtype=np.float64)
            best[document] = self._windows[document][int(of_windows.argmax())]
        truncated = np.logical_or.reduceat(output.truncated[self._pair_of_part], starts)
        truncated |= self._subsampled
        return ScoringResult(
            scores=scores,
            stage=np.where(complete, 0, NOT_SCORED),
            truncated=truncated,
            windows=best,
            model=model,
            scale=scale,
            stats=RankingStats(
                documents=len(counts),
                scored=int(complete.sum()),
                pairs=len(self.pairs),
                tokens=int(output.tokens.sum()),
                truncated=int(truncated.sum()),
                batches=output.batches,
                cache_hits=output.cache_hits,
                disk_hits=output.disk_hits,
                queue_s=output.queue_s,
                compute_s=output.compute_s,
            ),
            status="complete" if complete.all() else "partial",
            scoring=self._settings,
        )


def interleave(
    batches: Sequence[PairBatch], *, round_robin: bool
) -> tuple[list[TextPair], list[list[int]]]:
    """Return the pairs of all requests as one list.

    Args:
        batches: The pairs of each request.
        round_robin: Whether the first pair of each request comes first, so that all requests
            have their share of a deadline. Otherwise the pairs of a request stay together, and
            its query is tokenized once.

    Returns:
        The pairs, and for each request the positions of its pairs.
    """
    order = [
        (turn, number) for number, batch in enumerate(batches) for turn in range(len(batch.pairs))
    ]
    if round_robin:
        order.sort()
    positions: list[list[int]] = [[] for _ in batches]
    for position, (_, number) in enumerate(order):
        positions[number].append(position)
    return [batches[number].pairs[turn] for turn, number in order], positions


def effective_prompts(
    model_prompts: Mapping[Role, str], settings: ScoringSettings
) -> dict[Role, str]:
    """Return the texts before queries and documents; settings override the model's own."""
    explicit = settings.prompts or {}
    roles: tuple[Role, ...] = ("query", "document")
    return {role: explicit.get(role, model_prompts.get(role, "")) for role in roles}


def scorer_for(settings: RerankerSettings) -> Scorer:
    """Return the scorer of a reranker's model.

    Raises:
        ConfigurationError: If a setting of a single model is given and the model is a scorer of
            its own, such as a cascade.
    """
    if not isinstance(settings.model, Scorer):
        return CrossEncoderScorer(settings)
    names = [
        *(name for name in ModelSettings.model_fields if name != "model"),
        *ScoringSettings.model_fields,
        "optimize",
    ]
    default = RerankerSettings(model=MINI)
    for name in names:
        value = getattr(settings, name)
        if value != getattr(default, name):
            message = (
                f"model is a {type(settings.model).__name__}, and {name} is {value!r}: that is a "
                "setting of a single model. Set it on the stages."
            )
            raise ConfigurationError(message)
    return settings.model
