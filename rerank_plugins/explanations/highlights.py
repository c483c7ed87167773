"""Which sentences raised or lowered a score: each is left out once."""

from __future__ import annotations

from rerank_plugins.core.explanation import Highlight
from rerank_plugins.core.ordering import check_scores
from rerank_plugins.core.types import Ranking, TextPair
from rerank_plugins.core.windows import sentences
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.explanations.reading import Reading


def highlights_of(
    ranking: Ranking, reading: Reading | None, count: int
) -> list[tuple[Highlight, ...]]:
    """Return the sentences of the best documents with their effects on the raw score.

    All texts are scored in one request. A document of one sentence, and one that the model
    did not score, has none.

    Raises:
        ConfigurationError: If the model is not there.
        InferenceError: If it fails.
    """
    if not ranking.documents:
        return []
    if reading is None:
        message = (
            "highlights need the ranking's cross-encoder in this process, and "
            f"{ranking.model.model if ranking.model else 'no model'} is not loaded, or is none. "
            "Rank again here, or leave highlight out."
        )
        raise ConfigurationError(message)
    pairs: list[TextPair] = []
    found: list[tuple[int, list[tuple[int, int]]]] = []
    for document in ranking[:count]:
        start, end = reading.part(document) if document.scored else (0, 0)
        text = document.text[start:end]
        parts = sentences(text)
        rest = [text[: part.start] + text[part.end :] for part in parts]
        # The whole first: a document's own score may be the mean of several windows.
        asked = [text, *rest] if len(parts) > 1 else []
        found.append(
            (len(pairs), [(part.start + start, part.end + start) for part in parts if asked])
        )
        pairs += [TextPair(reading.query, reading.prompt + one) for one in asked]
    values = reading.engine.compute(pairs, max_length=reading.config.max_length).values
    scores = check_scores(values, len(pairs)).tolist() if pairs else []
    return [
        tuple(
            Highlight(start, end, scores[first] - scores[first + number])
            for number, (start, end) in enumerate(parts, start=1)
        )
        for first, parts in found
    ]
