"""FlagEmbedding's ``FlagReranker``."""

from __future__ import annotations

from collections.abc import Sequence

from FlagEmbedding import FlagReranker


class Flag:
    """With its default batch size, and the usual length for everybody (512)."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Load the model."""
        half = dtype == "float16"
        self._model = FlagReranker(model, use_fp16=half, devices=[device], max_length=512)

    def inputs(self, query: str, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Return pairs."""
        return [(query, text) for text in texts]

    def call(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs."""
        found: list[float] = self._model.compute_score(pairs)
        return found

    def scores(self, output: list[float]) -> list[float]:
        """Return the scores."""
        return output
