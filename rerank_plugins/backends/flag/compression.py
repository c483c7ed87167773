"""Token compression of BGE's lightweight reranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.masking_utils import create_causal_mask

from rerank_plugins.backends.decoder.forward import Head, cache_argument
from rerank_plugins.backends.decoder.prompts import PromptedPair


class CompressingScorer:
    """Scores batches of prompted pairs; before some layers, runs of document tokens are averaged.

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
            head: Scores the states of the model.
            device: Device of both.
            layers: Layers before which documents are compressed.
            ratio: Number of tokens that are averaged to one.
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
        mask, rotation = self._mask_and_rotation(states)
        for number, layer in enumerate(self._base.layers):
            if number in self._layers:
                states, lengths = self._compress(states, batch, lengths)
                mask, rotation = self._mask_and_rotation(states)
            states = layer(states, attention_mask=mask, position_embeddings=rotation)
        last = torch.tensor(lengths, device=self._device) - 1
        states = states[torch.arange(len(batch), device=self._device), last]
        scores: torch.Tensor = self._head(self._base.norm(states))
        return scores

    def _mask_and_rotation(self, states: torch.Tensor) -> tuple[Any, Any]:
        """Return the causal mask and the position embeddings; padding is on the right."""
        uncached: dict[str, Any] = {cache_argument(create_causal_mask): None}
        mask = create_causal_mask(
            config=self._base.config, inputs_embeds=states, attention_mask=None, **uncached
        )
        positions = torch.arange(states.shape[1], device=self._device)[None]
        return mask, self._base.rotary_emb(states, positions)

    def _compress(
        self, states: torch.Tensor, batch: Sequence[PromptedPair], lengths: list[int]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return states in which each run of document tokens is replaced by its mean."""
        rows = []
        for row, pair, length in zip(states, batch, lengths, strict=True):
            end = length - pair.tail
            runs = row[pair.head : end].split(self._ratio)
            means = [(run * (1 / len(run))).sum(0, keepdim=True) for run in runs if len(run)]
            rows.append(torch.cat([row[: pair.head], *means, row[end:length]]))
        return pad_sequence(rows, batch_first=True), [len(row) for row in rows]
