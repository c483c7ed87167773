"""Gemma 2 with early exit and token compression (BGE's lightweight reranker)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.masking_utils import create_causal_mask

from rerank_plugins.backends._caches import cache_argument
from rerank_plugins.backends.decoder.forward import Head
from rerank_plugins.backends.decoder.tokens import PromptedPair


class Compressed:
    """Scores batches of prompted pairs; some tokens of a document become one on the way.

    Source: FlagEmbedding's ``CostWiseGemmaModel`` and ``token_compress``.
    """

    def __init__(
        self,
        base: Any,  # noqa: ANN401  (a Gemma2Model)
        head: Head,
        device: torch.device,
        layers: Sequence[int],
        ratio: int,
    ) -> None:
        """Use a loaded model.

        Args:
            base: Gemma 2 without its output layer.
            head: What makes scores of its states.
            device: Where both are.
            layers: Before which layers documents are compressed.
            ratio: How many tokens become one.
        """
        self._base = base
        self._head = head
        self._device = device
        self._layers = frozenset(layers) if ratio > 1 else frozenset()
        self._ratio = ratio

    def __call__(self, batch: Sequence[PromptedPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``, float32."""
        ids = pad_sequence(
            [torch.from_numpy(pair.ids.astype(np.int64)) for pair in batch], batch_first=True
        )
        states = self._base.embed_tokens(ids.to(self._device))
        lengths = [len(pair.ids) for pair in batch]
        mask, turned = self._places(states)
        for number, layer in enumerate(self._base.layers):
            if number in self._layers:
                states, lengths = self._compress(states, batch, lengths)
                mask, turned = self._places(states)
            states = layer(states, attention_mask=mask, position_embeddings=turned)
        last = torch.tensor(lengths, device=self._device) - 1
        states = states[torch.arange(len(batch), device=self._device), last]
        scores: torch.Tensor = self._head(self._base.norm(states))
        return scores

    def _places(self, states: torch.Tensor) -> tuple[Any, Any]:
        """Return the mask and the rotations; padding at the right needs no mask of its own."""
        nothing: dict[str, Any] = {cache_argument(create_causal_mask): None}
        mask = create_causal_mask(
            config=self._base.config,
            inputs_embeds=states,
            attention_mask=None,
            **nothing,
        )
        positions = torch.arange(states.shape[1], device=self._device)[None]
        return mask, self._base.rotary_emb(states, positions)

    def _compress(
        self, states: torch.Tensor, batch: Sequence[PromptedPair], lengths: list[int]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return states in which each run of a document's tokens is their mean."""
        rows = []
        for row, pair, length in zip(states, batch, lengths, strict=True):
            end = length - pair.tail
            runs = row[pair.head : end].split(self._ratio)
            means = [(run * (1 / len(run))).sum(0, keepdim=True) for run in runs if len(run)]
            rows.append(torch.cat([row[: pair.head], *means, row[end:length]]))
        return pad_sequence(rows, batch_first=True), [len(row) for row in rows]
