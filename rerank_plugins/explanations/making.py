"""Explaining a ranking, with the model that made it where it is still loaded."""

from __future__ import annotations

from rerank_plugins.core.checks import check_count
from rerank_plugins.core.explanation import ExplainedDocument, Explanation
from rerank_plugins.core.types import Ranking
from rerank_plugins.explanations.highlights import highlights_of
from rerank_plugins.explanations.reading import Reading


def explain(ranking: Ranking, highlight: int = 0) -> Explanation:
    """Say what a ranking did; see :meth:`rerank_plugins.Ranking.explain`.

    Raises:
        ConfigurationError: If ``highlight`` is no count, or the model for it is not loaded.
        InferenceError: If the model fails.
    """
    check_count("highlight", highlight, least=0)
    reading = Reading.of(ranking)
    marked = highlights_of(ranking, reading, highlight) if highlight else []
    documents = tuple(
        ExplainedDocument(
            document,
            rank_before=document.index + 1,
            rank_after=place,
            tokens_cut=_tokens_cut(reading, ranking, place - 1),
            highlights=marked[place - 1] if place <= len(marked) else (),
        )
        for place, document in enumerate(ranking, start=1)
    )
    return Explanation(
        ranking.query,
        ranking.model,
        ranking.status,
        documents,
        left_out=ranking.stats.documents - len(documents),
    )


def _tokens_cut(reading: Reading | None, ranking: Ranking, at: int) -> int | None:
    document = ranking[at]
    if not document.truncated:
        return 0
    # An earlier stage read what the last one did not score, in a way that nobody kept.
    return reading.tokens_cut(document) if reading is not None and document.scored else None
