"""Immutable values: pairs, rankings, explanations, and the contract of a scorer."""

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
    """A query and one document, scored together by a cross-encoder."""

    query: str
    document: str


class Window(NamedTuple):
    """A character span of a document, ``[start, end)``."""

    start: int
    end: int


class ScoreScale(str, Enum):
    """The scale of raw scores, which decides whether an activation applies."""

    LOGIT = "logit"
    """Unbounded; a sigmoid maps it to 0..1."""
    PROBABILITY = "probability"
    """Between 0 and 1 already; no activation is applied."""
    UNDECLARED = "undeclared"
    """Unknown, such as that of a user's model object; no activation is applied."""


@dataclass(frozen=True)
class ModelIdentity:
    """The identity of a model: what a score depends on in addition to the two texts.

    Attributes:
        model: Resolved name or folder.
        revision: Hub revision, or None for a folder.
        backend: Name of the backend.
        dtype: Data type of the encoder's arithmetic, for example ``"float32"``.
        max_length: Maximum tokens per item, special tokens included.
        fingerprint: Hash of the weights and of everything else that scores depend on,
            independent of where the files are. Empty if the backend has none.
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
        relevance_score: The score to show and to compare with a threshold: activated,
            calibrated or fused. NaN where ``scored`` is False.
        raw_score: The model's own score. NaN where ``scored`` is False.
        text: The text as the caller passed it.
        truncated: Whether the model read only part of the text.
        scored: Whether the ranking's model scored it. Unscored documents come last: the deadline
            passed, the model failed, or an earlier stage of a cascade did not keep them.
        window: The window with the highest score; None if the text was not split.
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
    """The cost of one request.

    Attributes:
        documents: Documents received.
        scored: Documents that the ranking's model scored.
        pairs: Pairs to score, one per window, after identical texts are merged.
        tokens: Tokens scored, without padding.
        truncated: Documents that the model read only in part.
        batches: Batches that contained at least one of the pairs, shared with other requests.
        cache_hits: Pairs with cached scores.
        disk_hits: Pairs with scores from the disk cache, included in ``cache_hits``.
        queue_s: Seconds from arrival to the first batch.
        compute_s: Seconds of computation: the pairs' share of their batches, by tokens.
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
    """A ranking: documents from most to least relevant, as a sequence.

    Attributes:
        query: The query.
        documents: The ranked documents, best first.
        model: Identity of the model that scored them; None if there was nothing to score.
        stats: The cost of the request.
        status: ``"complete"``; ``"partial"`` if the deadline left documents unscored;
            ``"failed"`` if scoring failed and ``on_error`` is ``"passthrough"``.
        error: The error, if scoring failed.
        scoring: How the model read the texts; None if the scorer is not a cross-encoder.
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
        """Return the number of documents after the threshold and ``top_n``."""
        return len(self.documents)

    @overload
    def __getitem__(self, position: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[RankedDocument, ...]: ...
    def __getitem__(self, position: int | slice) -> RankedDocument | tuple[RankedDocument, ...]:
        """Return the document at a position (0 is the best), or a tuple for a slice."""
        return self.documents[position]

    def explain(self, *, highlight: int = 0) -> Explanation:
        """Explain what moved and why, for notebooks, rich's console and pandas.

        Args:
            highlight: Number of top documents whose sentences are rated: each sentence is left
                out once and the rest scored again, all in shared batches.

        Raises:
            ConfigurationError: If ``highlight`` is above 0 and the ranking's model is not loaded
                in this process, or is not a cross-encoder.
            InferenceError: If the model fails.
        """
        # By name, so that values import no views.
        explanation: Explanation = require("rerank_plugins.explain", None).explain(self, highlight)
        return explanation

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values for JSON; NaN scores become None."""
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
    """The scores of a request; arrays have one element per document, in input order.

    Attributes:
        scores: Raw scores, float32; NaN for documents that the model did not score.
        stage: The cascade stage of each score, :data:`NOT_SCORED` for none. Documents of later
            stages rank higher; the last stage is the ranking's model.
        truncated: Whether the model read only part of each document.
        windows: The window of each document with the highest score; None if it was not split.
        model: Identity of the ranking's model; None if it scored nothing.
        scale: Scale of the scores.
        stats: Cost of the request.
        status: Whether something is missing.
        error: The error, if scoring failed.
        final: Whether the scores of the highest stage are those of the ranking's model; otherwise
            they only order the documents, and none counts as scored.
        scoring: How the model read the texts; None if it is not a cross-encoder.
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
        """Return the result that scores no document."""
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
        """Score the documents of each request.

        Args:
            requests: The queries and their documents.
            deadline: When to stop, on the clock of :func:`time.perf_counter`.

        Returns:
            One result per request, in order.

        Raises:
            InferenceError: If a model fails.
        """
        ...

    async def ascore_requests(
        self, requests: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Score without blocking the event loop; see :meth:`score_requests`."""
        ...

    def warm_up(self) -> object:
        """Load the models."""
        ...

    def close(self) -> None:
        """Release the models; the next request loads them again."""
        ...


class Highlight(NamedTuple):
    """A sentence, ``[start, end)``, and its effect on the raw score.

    Attributes:
        effect: The raw score with the sentence minus the raw score without it.
    """

    start: int
    end: int
    effect: float


@dataclass(frozen=True)
class ExplainedDocument:
    """One document before and after reranking.

    Attributes:
        document: The ranked document with its scores and window.
        rank_before: Rank in the input, from 1.
        rank_after: Rank in the ranking, from 1.
        truncated_tokens: Tokens of its text that the model did not read; None if unknown.
        highlights: Its sentences with their effects, if requested.
    """

    document: RankedDocument
    rank_before: int
    rank_after: int
    truncated_tokens: int | None
    highlights: tuple[Highlight, ...] = ()

    @property
    def moved(self) -> int:
        """Ranks gained; negative if the document moved down."""
        return self.rank_before - self.rank_after


@dataclass(frozen=True)
class Explanation(Sequence[ExplainedDocument]):
    """The explanation of a ranking, best document first.

    Printed, it is a plain table; rich's console, notebooks and :meth:`to_pandas` show more.

    Attributes:
        query: The query.
        model: Identity of the model that scored; None if nothing was scored.
        status: Status of the ranking.
        documents: The documents, best first.
        left_out: Number of input documents that are not in the ranking.
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

    def note(self, explained: ExplainedDocument) -> str:
        """Return a remark on a document: unscored, best window, truncation; usually empty.

        Args:
            explained: One of this explanation's documents.
        """
        remarks = []
        if not explained.document.scored:
            reasons = {
                "complete": "not kept by an earlier stage",
                "partial": "not scored: the deadline passed, or an earlier stage did not keep it",
                "failed": "not scored: the model failed",
            }
            remarks.append(reasons[self.status])
        if explained.document.window is not None:
            start, end = explained.document.window
            remarks.append(f"best window: characters {start:,} to {end:,}")
        if explained.document.truncated:
            count = explained.truncated_tokens
            tokens = "some tokens" if count is None else f"{count:,} tokens"
            remarks.append(f"{tokens} truncated")
        return "; ".join(remarks)

    def to_pandas(self) -> Any:  # noqa: ANN401  (pandas is optional)
        """Return a pandas data frame with one row per document, best first.

        Raises:
            MissingDependencyError: If the extra ``pandas`` is not installed.
        """
        rows = [
            {
                "rank": explained.rank_after,
                "was": explained.rank_before,
                "moved": explained.moved,
                "relevance_score": explained.document.relevance_score,
                "raw_score": explained.document.raw_score,
                "retrieval_score": explained.document.retrieval_score,
                "scored": explained.document.scored,
                "truncated_tokens": explained.truncated_tokens,
                "window": explained.document.window and tuple(explained.document.window),
                "note": self.note(explained),
                "text": explained.document.text,
            }
            for explained in self
        ]
        return require("pandas", "pandas").DataFrame(rows)

    def __str__(self) -> str:
        """Return a plain table with one line per document."""
        lines = [f"{'rank':>4} {'was':>4} {'moved':>5} {'score':>8}  text"]
        for explained in self:
            document, note = explained.document, self.note(explained)
            lines.append(
                f"{explained.rank_after:>4} {explained.rank_before:>4} {explained.moved:>+5} "
                f"{document.relevance_score:>8.4f}  {' '.join(document.text.split())[:60]}"
                + (f"  [{note}]" if note else "")
            )
        return "\n".join(lines)

    def __rich__(self) -> Any:  # noqa: ANN401  (rich's protocol)
        """Return a table for rich's console."""
        return require("rerank_plugins.explain", None).table(self)

    def _repr_html_(self) -> str:
        """Return the HTML view of a notebook."""
        page: str = require("rerank_plugins.explain", None).html(self)
        return page


def replace_surrogates(text: str) -> str:
    r"""Return the text with lone surrogates replaced by U+FFFD.

    Lone surrogates come from decoding errors in the caller's data; no tokenizer accepts them.
    Surrogate pairs are joined. Every other text is returned unchanged.

    >>> replace_surrogates("a\ud800b") == "a\ufffdb"
    True
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
