"""Batches of token ids as tensors on a device, packed or padded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from rerank_plugins.backends.devices import CROSS_ENCODER_TOKENS, mapped_out_of_memory
from rerank_plugins.backends.torch.attention import Packing, supports_flash_attention
from rerank_plugins.backends.torch.tokenization import TokenPair
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray

_CPU_STEP: Final = 64
"""In half precision on a CPU, the number of packed tokens is rounded up to a multiple of this.
oneDNN compiles a kernel for every number of tokens, and torch keeps a thousand of them, which take
about a gigabyte without rounding."""

_CUDA_GRAPH_STEP: Final = 256
"""The same for CUDA graphs, which are recorded for every number of tokens: at most 64 graphs for
batches of 16,384 tokens."""


def cross_encoder_batch_tokens(device: torch.device) -> int:
    """Return the tokens per batch of a cross-encoder on a device."""
    return CROSS_ENCODER_TOKENS.get(device.type, CROSS_ENCODER_TOKENS["cpu"])


class PackedBatch(NamedTuple):
    """Concatenated sequences, the longest first.

    Attributes:
        ids: Token ids, int32 of shape ``(tokens,)``.
        types: Token type ids, the same shape.
        positions: Position ids, the same shape.
        packing: The boundaries of the sequences.
    """

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    packing: Packing


class BatchBuilder(threading.local):
    """Builds the input tensors of a batch on a device, with one copy from the host.

    Each thread reuses its host buffer: on CUDA devices it is pinned, which makes copies
    asynchronous but is slow to set up. So a batch must be computed before the same thread builds
    the next one.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        typed: bool,
        pad_id: int,
        first_position: int = 0,
        cuda_graphs: bool = False,
    ) -> None:
        """Prepare for a model on a device.

        Args:
            device: Device of the model.
            dtype: Data type of its arithmetic.
            typed: Whether the model reads token types.
            pad_id: Token id of padding.
            first_position: Position id of the first token of a sequence.
            cuda_graphs: Whether CUDA graphs compute the packed batches.
        """
        self._device = device
        self._typed = typed
        self._pad_id = pad_id
        self._first_position = first_position
        self._flash = supports_flash_attention(device, dtype)
        half_on_cpu = device.type == "cpu" and dtype != torch.float32
        self._step = _CUDA_GRAPH_STEP if cuda_graphs else _CPU_STEP if half_on_cpu else 1
        self._host = torch.empty(0, dtype=torch.int32)

    def round_up(
        self, batch: Sequence[TokenizedItem], max_seq_length: int
    ) -> Sequence[TokenizedItem]:
        """Return a batch with, if necessary, a sequence of padding that rounds its tokens up."""
        missing = -sum(item.tokens for item in batch) % self._step
        if not 0 < missing <= max_seq_length:
            return batch
        padding = TokenPair(np.full(missing, self._pad_id, np.int32), np.zeros(missing, np.int32))
        return [*batch, TokenizedItem(tokens=missing, truncated=False, payload=padding)]

    def pack(self, batch: Sequence[TokenizedItem]) -> PackedBatch:
        """Concatenate the sequences of a batch, which is sorted by length, the longest first."""
        lengths = [item.tokens for item in batch]
        total = sum(lengths)
        host = self._buffer(3 * total + len(lengths) + 1)
        numbers = host.numpy()
        rows = numbers[: 3 * total].reshape(3, total)
        np.concatenate([item.payload.ids for item in batch], out=rows[0])
        rows[1] = 0
        if self._typed:
            np.concatenate([item.payload.types for item in batch], out=rows[1])
        bounds = numbers[3 * total :]
        bounds[0] = 0
        np.cumsum(lengths, out=bounds[1:])
        first = self._first_position
        rows[2] = np.arange(first, first + total) - np.repeat(bounds[:-1], lengths)
        copied = host.to(self._device, non_blocking=True)
        packing = Packing.of(lengths, copied[3 * total :], flash=self._flash)
        ids, types, positions = copied[: 3 * total].view(3, total).unbind()
        return PackedBatch(ids, types, positions, packing)

    def pad(self, batch: Sequence[TokenPair]) -> dict[str, torch.Tensor]:
        """Pad a batch to its longest sequence; return the inputs of a transformers model."""
        shape = (3, len(batch), max(len(pair.ids) for pair in batch))
        host = self._buffer(int(np.prod(shape)))
        ids, types, mask = host.numpy().reshape(shape)
        ids.fill(self._pad_id)
        types.fill(0)
        mask.fill(0)
        for row, pair in enumerate(batch):
            ids[row, : len(pair.ids)] = pair.ids
            types[row, : len(pair.ids)] = pair.types
            mask[row, : len(pair.ids)] = 1
        copied = host.to(self._device, non_blocking=True).view(shape).long()
        inputs = {"input_ids": copied[0], "attention_mask": copied[2]}
        return inputs | {"token_type_ids": copied[1]} if self._typed else inputs

    def _buffer(self, size: int) -> torch.Tensor:
        if len(self._host) < size:
            pinned = self._device.type == "cuda"
            self._host = torch.empty(size * 5 // 4, dtype=torch.int32, pin_memory=pinned)
        return self._host[:size]


def compute_longest_first(
    batch: Sequence[TokenizedItem], compute: Callable[[list[TokenizedItem]], torch.Tensor]
) -> FloatArray:
    """Compute a batch sorted by length; return float32 results in the order of the batch."""
    order = sorted(range(len(batch)), key=lambda row: -batch[row].tokens)
    with torch.inference_mode(), mapped_out_of_memory():
        rows = compute([batch[row] for row in order]).float().cpu().numpy()
    results: FloatArray = np.empty(rows.shape, dtype=np.float32)
    results[order] = rows
    return results
