"""What goes to the device: everything of a batch in one buffer and one copy, longest first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from rerank_plugins.backends.devices import mapped_out_of_memory
from rerank_plugins.backends.torch.attention import Packing, can_flash
from rerank_plugins.backends.torch.tokenization import TokenPair
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray

_CPU_STEP: Final = 64
"""In half precision on a CPU the packed tokens are filled up to a multiple of this. oneDNN compiles
a kernel for each number of tokens and torch keeps a thousand of them: without this about a
gigabyte."""

_GRAPH_STEP: Final = 256
"""The same for CUDA graphs, of which one is recorded for each number of tokens: at most 64 for
batches of 16,384 tokens."""


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


class Inputs(threading.local):
    """Turns prepared pairs into tensors on a device.

    The host's buffer is used again by its thread: it is pinned where that makes copies
    asynchronous, which is slow to set up. So a batch must have been computed before the same
    thread makes the next one.

    Attributes:
        flash: Whether variable-length flash attention computes them.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        typed: bool,
        pad: int,
        first: int,
        cuda_graphs: bool = False,
    ) -> None:
        """Prepare for a model.

        Args:
            device: Where the model is.
            dtype: Data type of its arithmetic.
            typed: Whether the model knows token types.
            pad: Token id of padding.
            first: Position id of a sequence's first token.
            cuda_graphs: Whether CUDA graphs compute the packed batches.
        """
        self._device = device
        self._typed = typed
        self._pad = pad
        self._first = first
        self.flash = can_flash(device, dtype)
        half_on_cpu = device.type == "cpu" and dtype != torch.float32
        self._step = _GRAPH_STEP if cuda_graphs else _CPU_STEP if half_on_cpu else 1
        self._host = torch.empty(0, dtype=torch.int32)

    def filled(self, batch: Sequence[TokenizedItem], longest: int) -> list[TokenizedItem]:
        """Return a batch and, where it helps, a sequence that nobody asked for.

        Args:
            batch: The pairs.
            longest: Most tokens that a sequence may have.
        """
        short = -sum(one.tokens for one in batch) % self._step
        if not 0 < short <= longest:
            return list(batch)
        return [*batch, self._nothing(short)]

    def packed(self, batch: Sequence[TokenizedItem]) -> PackedBatch:
        """Pack a batch, longest first: ids, types, positions and bounds in one copy."""
        lengths = [one.tokens for one in batch]
        there = self._laid_out(batch, lengths).to(self._device, non_blocking=True)
        ids, types, positions, bounds = _cut(there, sum(lengths))
        packing = Packing.of(lengths, bounds, flash=self.flash)
        return PackedBatch(ids, types, positions, packing)

    def _nothing(self, tokens: int) -> TokenizedItem:
        """Return a sequence that nobody asked for."""
        pair = TokenPair(np.full(tokens, self._pad, np.int32), np.zeros(tokens, np.int32))
        return TokenizedItem(tokens=tokens, truncated=False, payload=pair)

    def _laid_out(self, batch: Sequence[TokenizedItem], lengths: list[int]) -> torch.Tensor:
        """Write ids, types, positions and bounds one after another in the host's buffer."""
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
        return host

    def pad(self, batch: Sequence[TokenizedItem]) -> dict[str, torch.Tensor]:
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


def longest_first(
    batch: Sequence[TokenizedItem], compute: Callable[[list[TokenizedItem]], torch.Tensor]
) -> FloatArray:
    """Compute a batch in order of length, and return its results in its own order.

    Args:
        batch: What to compute.
        compute: Returns a row of results for each of what it is given.

    Returns:
        The rows, float32.

    Raises:
        OutOfMemoryError: If the batch does not fit on the device.
    """
    order = sorted(range(len(batch)), key=lambda row: -batch[row].tokens)
    with torch.inference_mode(), mapped_out_of_memory():
        found = compute([batch[row] for row in order]).float().cpu().numpy()
    results: FloatArray = np.empty(found.shape, dtype=np.float32)
    results[order] = found
    return results


def _cut(memory: torch.Tensor, tokens: int) -> tuple[torch.Tensor, ...]:
    """Return ids, types and positions of so many tokens, and the bounds."""
    return *memory[: 3 * tokens].view(3, tokens).unbind(), memory[3 * tokens :]
