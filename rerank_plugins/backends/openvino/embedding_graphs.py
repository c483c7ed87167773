"""What is exported of a sentence-transformers bi-encoder: encoder, pooling, normalisation."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from rerank_plugins.backends.torch.encoder import pooling_of
from rerank_plugins.errors import ModelLoadError


class Embeddings(torch.nn.Module):
    """A transformer and the mean of its tokens, or its first one; not normalised.

    Attributes:
        inputs: See :class:`~rerank_plugins.backends.openvino.graphs.Exportable`.
        exact: Likewise.
    """

    exact: tuple[str, ...] = ()

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        """Wrap a bi-encoder of modules that are known here.

        Raises:
            ModelLoadError: If it has others.
        """
        super().__init__()
        modules: list[Any] = list(model)
        pooling = pooling_of(model)
        if pooling is None:
            found = ", ".join(type(module).__name__ for module in modules)
            own = getattr(modules[1], "pooling_mode", None) if len(modules) > 1 else None
            message = (
                f"{name!r} is made of {found} (pooling {own!r}); backend 'openvino' knows a "
                "Transformer, the mean of its tokens or the first one, prompts included, and "
                "Normalize. Use backend='sentence-transformers'."
            )
            raise ModelLoadError(message)
        self._mean = pooling == "mean"
        self._encoder = modules[0].auto_model
        typed = "token_type_ids" in model.tokenizer.model_input_names
        self.inputs = 3 if typed else 2

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return vectors of shape ``(rows, dimension)`` of inputs ``(rows, width)``."""
        more = {} if types is None else {"token_type_ids": types}
        found = self._encoder(input_ids=ids, attention_mask=mask, **more)
        hidden: torch.Tensor = found.last_hidden_state
        if not self._mean:
            return hidden[:, 0]
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)
