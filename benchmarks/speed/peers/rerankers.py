"""AnswerDotAI's ``rerankers`` with its cross-encoder ranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerankers import Reranker


class Rerankers:
    """With its default batch size."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Load the model."""
        self._ranker = Reranker(
            model, model_type="cross-encoder", device=device, dtype=dtype, verbose=0
        )
        if self._ranker is None:
            message = "rerankers could not make a ranker; its reason stands above."
            raise RuntimeError(message)

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[str]]:
        """Return what ``rank`` takes."""
        return query, list(texts)

    def call(self, inputs: tuple[str, list[str]]) -> Any:
        """Rank texts."""
        query, texts = inputs
        return self._ranker.rank(query=query, docs=texts)

    def scores(self, output: Any) -> list[float]:
        """Return the scores in the texts' order."""
        found = {int(one.document.doc_id): float(one.score) for one in output}
        return [found[number] for number in range(len(found))]
