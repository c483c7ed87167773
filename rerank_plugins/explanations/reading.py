"""What a cross-encoder read of a document: the part, and how many tokens it left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rerank_plugins.core.cutting import Cutter
from rerank_plugins.core.engine import Engine
from rerank_plugins.core.model_scorer import prompts_of
from rerank_plugins.core.policy import ScoringConfig
from rerank_plugins.core.protocols import CrossEncoderBackend, Tokenising
from rerank_plugins.core.registry import find_engine
from rerank_plugins.core.types import RankedDocument, Ranking, TextPair, Window
from rerank_plugins.core.windows import thin_out


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
    config: ScoringConfig
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
        prompts = prompts_of(engine.prompts, ranking.scoring)
        query = prompts["query"] + ranking.query
        return cls(engine, ranking.scoring, query, prompts["document"])

    def part(self, document: RankedDocument) -> Window:
        """Return the part of a scored document that its score comes from."""
        if document.window is not None:
            return document.window
        whole = Window(0, len(document.text))
        backend = self.engine.backend
        if not document.truncated or not isinstance(backend, Tokenising):
            return whole
        before = len(self.prompt)
        (spans,) = backend.spans([self.prompt + document.text])
        room = backend.room(self.query, self.config.max_length)
        return Window(0, max(0, int(spans[:room, 1].max(initial=0)) - before))

    def tokens_cut(self, document: RankedDocument) -> int | None:
        """Return how many tokens of a scored document were not read; None if unknown."""
        backend = self.engine.backend
        if not isinstance(backend, Tokenising):
            return None
        if self.config.long_documents == "windows":
            return self._between_windows(backend, document.text)
        (spans,) = backend.spans([self.prompt + document.text])
        return max(0, len(spans) - backend.room(self.query, self.config.max_length))

    def _between_windows(self, backend: Tokenising, text: str) -> int:
        length, overlap = self.config.max_length, self.config.window_overlap
        cut = Cutter(self.engine.backend, length, overlap, self.prompt)
        kept = thin_out(cut(self.query, [text])[0], self.config.max_windows)
        starts = backend.spans([text])[0][:, 0]
        read = np.zeros(len(starts), dtype=np.bool_)
        for window in kept:
            read |= (starts >= window.start) & (starts < window.end)
        return int((~read).sum())
