"""Explanation of a ranking by the model that scored it, if the model is still loaded."""

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


def explain(ranking: Ranking, highlight: int = 0) -> Explanation:
    """Explain a ranking; see :meth:`rerank_plugins.Ranking.explain`.

    Raises:
        ConfigurationError: If ``highlight`` is not an integer of at least 0, or if it is above
            0 and the model is not loaded.
        InferenceError: If the model fails.
    """
    validate_count("highlight", highlight, least=0)
    context = _ScoringContext.of(ranking)
    highlights = _highlights(ranking, context, highlight) if highlight else []
    documents = tuple(
        ExplainedDocument(
            document,
            rank_before=document.index + 1,
            rank_after=rank,
            truncated_tokens=_truncated_tokens(document, context),
            highlights=highlights[rank - 1] if rank <= len(highlights) else (),
        )
        for rank, document in enumerate(ranking, start=1)
    )
    return Explanation(
        ranking.query,
        ranking.model,
        ranking.status,
        documents,
        left_out=ranking.stats.documents - len(documents),
    )


@dataclass(frozen=True)
class _ScoringContext:
    """The model and the settings that scored a ranking.

    Attributes:
        engine: Engine of the model.
        settings: Scoring settings of the ranking.
        query: The query with its prompt.
        prompt: Prompt before each document.
    """

    engine: Engine[TextPair]
    settings: ScoringSettings
    query: str
    prompt: str

    @classmethod
    def of(cls, ranking: Ranking) -> _ScoringContext | None:
        """Return the context; None if the ranking's cross-encoder is not loaded here."""
        if ranking.model is None or ranking.scoring is None:
            return None
        engine = find_engine(ranking.model, CrossEncoderBackend)
        if engine is None:
            return None
        prompts = effective_prompts(engine.prompts, ranking.scoring)
        query = prompts["query"] + ranking.query
        return cls(engine, ranking.scoring, query, prompts["document"])

    def scored_part(self, document: RankedDocument) -> Window:
        """Return the span of a scored document that its score is computed from."""
        if document.window is not None:
            return document.window
        whole = Window(0, len(document.text))
        backend = self.engine.backend
        if not document.truncated or not isinstance(backend, SupportsTokenSpans):
            return whole
        (spans,) = backend.spans([self.prompt + document.text])
        room = backend.room(self.query, self.settings.max_length)
        end = int(spans[:room, 1].max(initial=0)) - len(self.prompt)
        return Window(0, max(0, end))

    def truncated_tokens(self, document: RankedDocument) -> int | None:
        """Return how many tokens of a scored document were not scored; None if unknown."""
        backend = self.engine.backend
        if not isinstance(backend, SupportsTokenSpans):
            return None
        if self.settings.windows is not None:
            return self._tokens_between_windows(backend, document.text, self.settings.windows)
        (spans,) = backend.spans([self.prompt + document.text])
        return max(0, len(spans) - backend.room(self.query, self.settings.max_length))

    def _tokens_between_windows(
        self, backend: SupportsTokenSpans, text: str, settings: Windows
    ) -> int:
        split = WindowSplitter(
            self.engine.backend, self.settings.max_length, settings.overlap, self.prompt
        )
        windows = subsample(split(self.query, [text])[0], settings.max_windows)
        starts = backend.spans([text])[0][:, 0]
        scored = np.zeros(len(starts), dtype=np.bool_)
        for window in windows:
            scored |= (starts >= window.start) & (starts < window.end)
        return int((~scored).sum())


def _truncated_tokens(document: RankedDocument, context: _ScoringContext | None) -> int | None:
    if not document.truncated:
        return 0
    # The settings of an earlier stage, which scored what the last one did not, are unknown.
    return context.truncated_tokens(document) if context is not None and document.scored else None


def _highlights(
    ranking: Ranking, context: _ScoringContext | None, count: int
) -> list[tuple[Highlight, ...]]:
    """Return the sentences of the best documents with their effects on the raw score.

    All texts are scored in one request. A document that has one sentence, or that the model
    did not score, has no highlights.

    Raises:
        ConfigurationError: If the model is not loaded.
        InferenceError: If the model fails.
    """
    if not ranking.documents:
        return []
    if context is None:
        model = ranking.model.model if ranking.model else "no model"
        message = (
            "highlights need the ranking's cross-encoder, but "
            f"{model} is not loaded in this process, or is not a cross-encoder. "
            "Rank again in this process, or use highlight=0."
        )
        raise ConfigurationError(message)
    pairs: list[TextPair] = []
    first_pairs: list[int] = []
    sentences_of: list[list[tuple[int, int]]] = []
    for document in ranking[:count]:
        start, end = context.scored_part(document) if document.scored else (0, 0)
        text = document.text[start:end]
        spans = sentences(text)
        first_pairs.append(len(pairs))
        if len(spans) > 1:
            # The part itself comes first: a document's score may be the mean of several windows.
            texts = [text, *(text[: span.start] + text[span.end :] for span in spans)]
            pairs += [TextPair(context.query, context.prompt + text) for text in texts]
            sentences_of.append([(span.start + start, span.end + start) for span in spans])
        else:
            sentences_of.append([])
    values = context.engine.compute(pairs, max_length=context.settings.max_length).values
    scores = validate_scores(values, len(pairs)).tolist() if pairs else []
    return [
        tuple(
            Highlight(start, end, scores[first] - scores[first + number])
            for number, (start, end) in enumerate(spans, start=1)
        )
        for first, spans in zip(first_pairs, sentences_of, strict=True)
    ]
