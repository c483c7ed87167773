"""Explaining a ranking, with the model that made it where it is still loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rerank_plugins.config import ScoringSettings, Windows, validate_count
from rerank_plugins.core.cross_encoder import effective_prompts
from rerank_plugins.core.ranking import validate_scores
from rerank_plugins.core.windows import WindowSplitter, sentences, subsample
from rerank_plugins.engine.backend import CrossEncoderBackend, SupportsTokenSpans
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.registry import find_engine
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import (
    ExplainedDocument,
    Explanation,
    Highlight,
    RankedDocument,
    Ranking,
    TextPair,
    Window,
)


@dataclass(frozen=True)
class Reading:
    """How the documents of a ranking were read.

    Attributes:
        engine: The engine of the model.
        config: How it was asked to read.
        query: The query, with its prompt.
        prompt: What went before each document.
    """

    engine: Engine[TextPair]
    config: ScoringSettings
    query: str
    prompt: str

    @classmethod
    def of(cls, ranking: Ranking) -> Reading | None:
        """Return it if the model is a cross-encoder that is open in this process, else None."""
        if ranking.model is None or ranking.scoring is None:
            return None
        engine = find_engine(ranking.model, CrossEncoderBackend)
        if engine is None:
            return None
        prompts = effective_prompts(engine.prompts, ranking.scoring)
        query = prompts["query"] + ranking.query
        return cls(engine, ranking.scoring, query, prompts["document"])

    def part(self, document: RankedDocument) -> Window:
        """Return the part of a scored document that its score comes from."""
        if document.window is not None:
            return document.window
        whole = Window(0, len(document.text))
        backend = self.engine.backend
        if not document.truncated or not isinstance(backend, SupportsTokenSpans):
            return whole
        before = len(self.prompt)
        (spans,) = backend.spans([self.prompt + document.text])
        room = backend.room(self.query, self.config.max_length)
        return Window(0, max(0, int(spans[:room, 1].max(initial=0)) - before))

    def tokens_cut(self, document: RankedDocument) -> int | None:
        """Return how many tokens of a scored document were not read; None if unknown."""
        backend = self.engine.backend
        if not isinstance(backend, SupportsTokenSpans):
            return None
        if self.config.windows is not None:
            return self._between_windows(backend, document.text)
        (spans,) = backend.spans([self.prompt + document.text])
        return max(0, len(spans) - backend.room(self.query, self.config.max_length))

    def _between_windows(self, backend: SupportsTokenSpans, text: str) -> int:
        windows = self.config.windows or Windows()
        splitter = WindowSplitter(
            self.engine.backend, self.config.max_length, windows.overlap, self.prompt
        )
        kept = subsample(splitter(self.query, [text])[0], windows.max_windows)
        starts = backend.spans([text])[0][:, 0]
        read = np.zeros(len(starts), dtype=np.bool_)
        for window in kept:
            read |= (starts >= window.start) & (starts < window.end)
        return int((~read).sum())


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
    scores = validate_scores(values, len(pairs)).tolist() if pairs else []
    return [
        tuple(
            Highlight(start, end, scores[first] - scores[first + number])
            for number, (start, end) in enumerate(parts, start=1)
        )
        for first, parts in found
    ]


def explain(ranking: Ranking, highlight: int = 0) -> Explanation:
    """Say what a ranking did; see :meth:`rerank_plugins.Ranking.explain`.

    Raises:
        ConfigurationError: If ``highlight`` is no count, or the model for it is not loaded.
        InferenceError: If the model fails.
    """
    validate_count("highlight", highlight, least=0)
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
