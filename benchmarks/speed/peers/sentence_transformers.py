"""``CrossEncoder.predict`` of sentence-transformers, on torch or OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder

MAX_LENGTH = 512


class SentenceTransformers:
    """With its default batch size; raw scores, which cost the same as those after a sigmoid."""

    def __init__(self, *, model: str, device: str, dtype: str, backend: str = "torch") -> None:
        """Load the model."""
        options = {"dtype": getattr(torch, dtype)} if backend == "torch" else {}
        self._model = CrossEncoder(
            model,
            device=device,
            max_length=MAX_LENGTH,
            activation_fn=torch.nn.Identity(),
            backend=backend,
            model_kwargs=options,
        )

    def inputs(self, query: str, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Return pairs."""
        return [(query, text) for text in texts]

    def call(self, pairs: list[tuple[str, str]]) -> Any:
        """Score pairs."""
        return self._model.predict(pairs)

    def scores(self, output: Any) -> list[float]:
        """Return the scores."""
        return [float(score) for score in output]
