"""The values that travel through the core. All are immutable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from rerank_plugins._optional import require

if TYPE_CHECKING:
    from rerank_plugins.core.explanation import Explanation
    from rerank_plugins.core.policy import ScoringConfig

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
        first_stage: The first stage's score; None if the caller gave none.
    """

    index: int
    relevance_score: float
    raw_score: float
    text: str
    truncated: bool
    scored: bool = True
    window: Window | None = None
    first_stage: float | None = None


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
    scoring: ScoringConfig | None = field(default=None, compare=False)

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
        made: Explanation = require("rerank_plugins.explanations", None).explain(self, highlight)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; a score that is NaN becomes None."""
        values = asdict(self)
        for document in values["documents"]:
            if not document["scored"]:
                document["relevance_score"] = document["raw_score"] = None
        return values
