"""What a ranking did with each document: the values; their views live elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from rerank_plugins._optional import require

if TYPE_CHECKING:
    from rerank_plugins.core.types import ModelIdentity, RankedDocument, RankingStatus


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
                "first_stage": one.document.first_stage,
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
        return require("rerank_plugins.explanations.table", None).table(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        page: str = require("rerank_plugins.explanations.page", None).html(self)
        return page
