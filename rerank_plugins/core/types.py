"""The values that travel through the core. All are immutable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, NamedTuple, overload


class TextPair(NamedTuple):
    """A query and one document, to be read together by a cross-encoder."""

    query: str
    document: str


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
        relevance_score: The score to show and to threshold: the activated raw score.
        raw_score: What the model gave; the order is made on this.
        text: The text as the caller gave it.
        truncated: Whether the model could not read all of the text.
    """

    index: int
    relevance_score: float
    raw_score: float
    text: str
    truncated: bool


@dataclass(frozen=True)
class RankingStats:
    """What one request cost.

    Attributes:
        documents: Documents received.
        pairs: Pairs scored, after identical texts were merged.
        tokens: Tokens scored, without padding.
        truncated: Documents of which the model could not read all.
        batches: Batches that held at least one of the pairs, shared with other requests.
        cache_hits: Pairs whose scores were known.
        disk_hits: Those of them that were read from the disk.
        queue_s: Seconds from arrival to the first batch.
        compute_s: Seconds of computing: the pairs' share of their batches, by tokens.
    """

    documents: int = 0
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
    """

    query: str
    documents: tuple[RankedDocument, ...]
    model: ModelIdentity | None
    stats: RankingStats

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)
