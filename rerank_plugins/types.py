"""The values that travel through the core. All are immutable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    overload,
    runtime_checkable,
)

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._lazy import require

if TYPE_CHECKING:
    from rerank_plugins.config import ScoringSettings

FloatArray = NDArray[np.float32]


RankingStatus = Literal["complete", "partial", "failed"]


class TextPair(NamedTuple):
    """A query and one document, to be read together by a cross-encoder."""

    query: str
    document: str


class Window(NamedTuple):
    """A part of a document: characters ``start`` to ``end``, the latter excluded."""

    start: int
    end: int


class ScoreScale(str, Enum):
    """What a backend's numbers mean, so that an activation is applied once and only once."""

    LOGIT = "logit"
    """Unbounded; a sigmoid makes it a number between 0 and 1."""
    PROBABILITY = "probability"
    """Between 0 and 1 already; no activation is applied."""
    UNDECLARED = "undeclared"
    """Somebody else's scale (a model object handed in); used as it is."""


@dataclass(frozen=True)
class ModelIdentity:
    """What a score depends on besides the two texts.

    Attributes:
        model: Name or folder as the backend resolved it.
        revision: Hub revision, or None for a folder.
        backend: Name of the backend.
        dtype: Data type of the encoder's arithmetic, for example ``"float32"``.
        max_length: Most tokens the model can read at once, special tokens included.
        fingerprint: Digest of the weights and of whatever else scores depend on; the same
            wherever they lie. Empty where the backend knows none.
    """

    model: str
    revision: str | None
    backend: str
    dtype: str
    max_length: int
    fingerprint: str = ""


@dataclass(frozen=True)
class RankedDocument:
    """One document of a ranking.

    Attributes:
        index: Position of the document in the caller's input.
        relevance_score: The score to show and to threshold: activated, calibrated or fused.
            NaN where ``scored`` is False.
        raw_score: What the model gave. NaN where ``scored`` is False.
        text: The text as the caller gave it.
        truncated: Whether the model did not read all of the text.
        scored: Whether the ranking's model scored it. One that it did not stands behind those
            that it did: the time was up, the model failed, or an earlier stage of a cascade
            sorted it out.
        window: The part of the text that was scored highest; None if it was read in one.
        retrieval_score: The retrieval score; None if the caller gave none.
    """

    index: int
    relevance_score: float
    raw_score: float
    text: str
    truncated: bool
    scored: bool = True
    window: Window | None = None
    retrieval_score: float | None = None


@dataclass(frozen=True)
class RankingStats:
    """What one request cost.

    Attributes:
        documents: Documents received.
        scored: Documents that the ranking's model scored.
        pairs: Pairs to score, windows counted one by one, after identical texts were merged.
        tokens: Tokens scored, without padding.
        truncated: Documents of which the model did not read all.
        batches: Batches that held at least one of the pairs, shared with other requests.
        cache_hits: Pairs whose scores were known.
        disk_hits: Those of them that were read from the disk.
        queue_s: Seconds from arrival to the first batch.
        compute_s: Seconds of computing: the pairs' share of their batches, by tokens.
    """

    documents: int = 0
    scored: int = 0
    pairs: int = 0
    tokens: int = 0
    truncated: int = 0
    batches: int = field(default=0, compare=False)
    cache_hits: int = field(default=0, compare=False)
    disk_hits: int = field(default=0, compare=False)
    queue_s: float = field(default=0.0, compare=False)
    compute_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Ranking(Sequence[RankedDocument]):
    """Documents from most to least relevant; iterate over it, index it, take its length.

    Attributes:
        query: The query.
        documents: The ranked documents, best first.
        model: Identity of the model that scored them; None if there was nothing to score.
        stats: What the request cost.
        status: ``"complete"``; ``"partial"`` if the deadline left documents unscored;
            ``"failed"`` if scoring failed and the input's order was asked for then.
        error: What failed, where something did.
        scoring: How the model read the texts; None where a scorer of another kind did.
    """

    query: str
    documents: tuple[RankedDocument, ...]
    model: ModelIdentity | None
    stats: RankingStats
    status: RankingStatus = "complete"
    error: str | None = None
    scoring: ScoringSettings | None = field(default=None, compare=False)

    def __iter__(self) -> Iterator[RankedDocument]:
        """Iterate over the documents, best first."""
        return iter(self.documents)

    def __len__(self) -> int:
        """Return how many documents are left after the threshold and ``top_n``."""
        return len(self.documents)

    @overload
    def __getitem__(self, position: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[RankedDocument, ...]: ...
    def __getitem__(self, position: int | slice) -> RankedDocument | tuple[RankedDocument, ...]:
        """Return the document at a position (0 is the best), or a tuple for a slice."""
        return self.documents[position]

    def explain(self, *, highlight: int = 0) -> Explanation:
        """Say what moved and why; a notebook, rich's console and pandas can show it.

        Args:
            highlight: For how many of the best documents to find the sentences that raised or
                lowered the score: each is left out once and the rest scored again, all in
                common batches.

        Raises:
            ConfigurationError: If highlights are asked for and the ranking's model is not
                loaded in this process, or is no cross-encoder.
            InferenceError: If the model fails.
        """
        # By name: what shows a ranking may import what shows tables, the core may not.
        made: Explanation = require("rerank_plugins.explain", None).explain(self, highlight)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; a score that is NaN becomes None."""
        values = asdict(replace(self, scoring=None))
        values["scoring"] = None if self.scoring is None else self.scoring.model_dump(mode="json")
        for document in values["documents"]:
            if not document["scored"]:
                document["relevance_score"] = document["raw_score"] = None
        return values


NOT_SCORED: Final = -1
"""The stage of a document that no model has scored."""


@dataclass(frozen=True)
class ScoringRequest:
    """A checked query with its documents.

    Attributes:
        query: The query.
        texts: The documents' texts, in first-stage order.
        retrieval_scores: The retrieval scores, float64 of shape ``(texts,)``; None if unknown.
    """

    query: str
    texts: list[str]
    retrieval_scores: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ScoringResult:
    """What a scorer made of a task; arrays have one element a document, in input order.

    Attributes:
        scores: Raw scores, float32; NaN for documents that the model did not score.
        stage: Which stage of a cascade gave each score, :data:`NOT_SCORED` for none. A later
            one goes first; those of the last are the scores of the ranking's model.
        truncated: Whether the model did not read all of each document.
        windows: The part of each document that was scored highest; None if read in one.
        model: Identity of the ranking's model; None if nothing was asked of it.
        scale: What its scores mean.
        stats: What it cost.
        status: Whether something is missing.
        error: What failed, where something did.
        final: Whether the highest stage's scores are those of the ranking's model; otherwise
            they order the documents, and none counts as scored.
        scoring: How the ranking's model read the texts; None where it is no cross-encoder.
    """

    scores: FloatArray
    stage: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: Sequence[Window | None]
    model: ModelIdentity | None
    scale: ScoreScale
    stats: RankingStats
    status: RankingStatus = "complete"
    error: str | None = None
    final: bool = True
    scoring: ScoringSettings | None = None

    @classmethod
    def nothing(
        cls, documents: int, status: RankingStatus, error: str | None = None
    ) -> ScoringResult:
        """Return the answer that scores no document."""
        return cls(
            scores=np.full(documents, np.nan, dtype=np.float32),
            stage=np.full(documents, NOT_SCORED, dtype=np.int64),
            truncated=np.zeros(documents, dtype=np.bool_),
            windows=[None] * documents,
            model=None,
            scale=ScoreScale.LOGIT,
            stats=RankingStats(documents=documents),
            status=status,
            error=error,
        )


@runtime_checkable
class Scorer(Protocol):
    """Scores documents for queries: one model, or a cascade of them. Safe from any thread."""

    def score_requests(
        self, requests: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Score the documents of each task.

        Args:
            tasks: What to score.
            deadline: When to stop, on the clock of :func:`time.perf_counter`.

        Returns:
            One answer a task, in order.

        Raises:
            InferenceError: If a model fails.
        """
        ...

    async def ascore_requests(
        self, requests: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Do the same without blocking the event loop; see :meth:`score_requests`."""
        ...

    def warm_up(self) -> object:
        """Load what is needed."""
        ...

    def close(self) -> None:
        """Release the models; the next request loads them again."""
        ...


class Highlight(NamedTuple):
    """A sentence: characters ``start`` to ``end``, and what it did to the raw score.

    Attributes:
        effect: The raw score with the sentence less the one without it: above 0, it speaks
            for the document.
    """

    start: int
    end: int
    effect: float


@dataclass(frozen=True)
class ExplainedDocument:
    """One document, before and after.

    Attributes:
        document: The document as the ranking has it: its scores, its window.
        rank_before: Its place in the input, from 1.
        rank_after: Its place in the ranking, from 1.
        tokens_cut: Tokens of its text that the model did not read; None if it is only known
            that some were cut.
        highlights: Its sentences with their effects, if they were asked for.
    """

    document: RankedDocument
    rank_before: int
    rank_after: int
    tokens_cut: int | None
    highlights: tuple[Highlight, ...] = ()

    @property
    def moved(self) -> int:
        """How many places it rose; below 0 it fell."""
        return self.rank_before - self.rank_after


@dataclass(frozen=True)
class Explanation(Sequence[ExplainedDocument]):
    """What a ranking did with each of its documents, best first.

    Printed, it is a plain table; rich's console, notebooks and :meth:`to_pandas` show more.

    Attributes:
        query: The query.
        model: Identity of the model that scored; None if nothing was scored.
        status: Status of the ranking.
        documents: The documents, best first.
        left_out: How many others were given and are not in the ranking.
    """

    query: str
    model: ModelIdentity | None
    status: RankingStatus
    documents: tuple[ExplainedDocument, ...]
    left_out: int

    def __iter__(self) -> Iterator[ExplainedDocument]:
        """Iterate over the documents, best first."""
        return iter(self.documents)

    def __len__(self) -> int:
        """Return how many documents the ranking holds."""
        return len(self.documents)

    @overload
    def __getitem__(self, position: int) -> ExplainedDocument: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[ExplainedDocument, ...]: ...
    def __getitem__(
        self, position: int | slice
    ) -> ExplainedDocument | tuple[ExplainedDocument, ...]:
        """Return the document at a position (0 is the best), or a tuple for a slice."""
        return self.documents[position]

    def why(self, one: ExplainedDocument) -> str:
        """Return what else there is to know of a document; mostly nothing.

        Args:
            one: One of this explanation's documents.
        """
        found = []
        if not one.document.scored:
            reasons = {
                "complete": "sorted out by an earlier stage",
                "partial": "not scored: the time was up, or an earlier stage sorted it out",
                "failed": "not scored: the model failed",
            }
            found.append(reasons[self.status])
        if one.document.window is not None:
            start, end = one.document.window
            found.append(f"best part: characters {start:,} to {end:,}")
        if one.document.truncated:
            count = "some tokens" if one.tokens_cut is None else f"{one.tokens_cut:,} tokens"
            found.append(f"{count} not read")
        return "; ".join(found)

    def to_pandas(self) -> Any:  # noqa: ANN401  (the core knows no pandas)
        """Return a pandas frame with a row a document, best first.

        Raises:
            MissingDependencyError: If the extra ``pandas`` is not installed.
        """
        rows = [
            {
                "rank": one.rank_after,
                "was": one.rank_before,
                "moved": one.moved,
                "relevance_score": one.document.relevance_score,
                "raw_score": one.document.raw_score,
                "retrieval_score": one.document.retrieval_score,
                "scored": one.document.scored,
                "tokens_cut": one.tokens_cut,
                "window": one.document.window and tuple(one.document.window),
                "note": self.why(one),
                "text": one.document.text,
            }
            for one in self
        ]
        return require("pandas", "pandas").DataFrame(rows)

    def __str__(self) -> str:
        """Return a plain table, a line a document."""
        lines = [f"{'rank':>4} {'was':>4} {'moved':>5} {'score':>8}  text"]
        lines += [
            f"{one.rank_after:>4} {one.rank_before:>4} {one.moved:>+5} "
            f"{one.document.relevance_score:>8.4f}  {' '.join(one.document.text.split())[:60]}"
            + (f"  [{note}]" if (note := self.why(one)) else "")
            for one in self
        ]
        return "\n".join(lines)

    def __rich__(self) -> Any:  # noqa: ANN401  (rich's protocol)
        """Return a table for rich's console."""
        return require("rerank_plugins.explain.views", None).table(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        page: str = require("rerank_plugins.explain.views", None).html(self)
        return page
