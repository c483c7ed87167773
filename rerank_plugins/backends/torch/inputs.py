"""What goes to the device: everything of a batch in one buffer and one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from rerank_plugins.backends.torch.attention import Packing, can_flash
from rerank_plugins.backends.torch.pairs import TokenPair
from rerank_plugins.core.protocols import Prepared

_CPU_STEP: Final = 64
"""On a CPU the packed tokens are filled up to a multiple of this. oneDNN compiles a kernel for
each number of tokens and torch keeps a thousand of them: without this about a gigabyte."""


class PackedBatch(NamedTuple):
    """Sequences one after another, longest first.

    Attributes:
        ids: Token ids, int32 of shape ``(tokens,)``.
        types: Token type ids, the same shape.
        positions: Position ids, the same shape.
        packing: Where sequences begin and end.
    """

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    packing: Packing


class Inputs:
    """Turns prepared pairs into tensors on a device.

    The host's buffer is used again: it is pinned where that makes copies asynchronous, which
    is slow to set up. So a batch must have been computed before the next one is made.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, *, typed: bool, pad: int, first: int
    ) -> None:
        """Prepare for a model.

        Args:
            device: Where the model is.
            dtype: Data type of its arithmetic.
            typed: Whether the model knows token types.
            pad: Token id of padding.
            first: Position id of a sequence's first token.
        """
        self._device = device
        self._typed = typed
        self._pad = pad
        self._first = first
        self._flash = can_flash(device, dtype)
        self._host = torch.empty(0, dtype=torch.int32)

    def filled(self, batch: Sequence[Prepared], longest: int) -> list[Prepared]:
        """Return a batch and, where it helps, a sequence that nobody asked for.

        Args:
            batch: The pairs.
            longest: Most tokens that a sequence may have.
        """
        short = -sum(one.tokens for one in batch) % _CPU_STEP
        if self._device.type != "cpu" or not 0 < short <= longest:
            return list(batch)
        nothing = TokenPair(np.full(short, self._pad, np.int32), np.zeros(short, np.int32))
        return [*batch, Prepared(tokens=short, truncated=False, payload=nothing)]

    def packed(self, batch: Sequence[Prepared]) -> PackedBatch:
        """Pack a batch, longest first: ids, types, positions and bounds in one copy."""
        lengths = [one.tokens for one in batch]
        total = sum(lengths)
        host = self._buffer(3 * total + len(lengths) + 1)
        numbers = host.numpy()
        rows = numbers[: 3 * total].reshape(3, total)
        np.concatenate([one.payload.ids for one in batch], out=rows[0])
        rows[1] = 0
        if self._typed:
            np.concatenate([one.payload.types for one in batch], out=rows[1])
        bounds = numbers[3 * total :]
        bounds[0] = 0
        np.cumsum(lengths, out=bounds[1:])
        rows[2] = np.arange(self._first, self._first + total) - np.repeat(bounds[:-1], lengths)
        there = host.to(self._device, non_blocking=True)
        ids, types, positions = there[: 3 * total].view(3, total)
        packing = Packing.of(lengths, there[3 * total :], flash=self._flash)
        return PackedBatch(ids, types, positions, packing)

    def padded(self, batch: Sequence[Prepared]) -> dict[str, torch.Tensor]:
        """Pad a batch to its longest sequence, as transformers' models want it."""
        shape = (3, len(batch), max(one.tokens for one in batch))
        host = self._buffer(int(np.prod(shape)))
        ids, types, mask = host.numpy().reshape(shape)
        ids.fill(self._pad)
        types.fill(0)
        mask.fill(0)
        for row, one in enumerate(batch):
            ids[row, : one.tokens] = one.payload.ids
            types[row, : one.tokens] = one.payload.types
            mask[row, : one.tokens] = 1
        there = host.to(self._device, non_blocking=True).view(shape).long()
        inputs = {"input_ids": there[0], "attention_mask": there[2]}
        return inputs | {"token_type_ids": there[1]} if self._typed else inputs

    def _buffer(self, size: int) -> torch.Tensor:
        if len(self._host) < size:
            pinned = self._device.type == "cuda"
            self._host = torch.empty(size * 5 // 4, dtype=torch.int32, pin_memory=pinned)
        return self._host[:size]
