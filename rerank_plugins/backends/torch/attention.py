"""Attention over packed sequences, without padding.

Packed tokens are concatenated sequences, so linear layers compute no padding, and only attention
needs the boundaries of the sequences. On supported CUDA devices it is one call of torch's
variable-length flash attention. Elsewhere it is computed per group of sequences of equal length:
with scaled dot-product attention or, for float32 on a CPU, with softmax without max-subtraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from typing import Final, TypeAlias, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED: Final = "rerank_plugins_packed"
"""Name under which transformers models find :func:`packed_attention`."""

_FLASH_CAPABILITY: Final = (8, 0)
"""Smallest CUDA compute capability with flash attention."""

_GROUP_TOKENS: Final = 512
"""Maximum tokens of a group of several sequences: results of this size are allocated from memory
that the process already holds, larger ones page by page from the operating system."""

_MAX_LOGITS_LENGTH: Final = 512
"""Maximum length of a sequence whose logits are materialized: they take some megabytes."""

_MIN_LOGITS_LENGTH: Final = 96
"""Several shorter sequences of equal length are faster together in the fused kernel."""

_MIN_SUM, _MAX_SUM = 1e-25, 1e30
"""Range of sums of exponentials in which float32 is exact enough without max-subtraction: in a row
with the smallest sum, terms that are 1e-7 of the sum are still normal numbers."""

Groups: TypeAlias = list[tuple[int, int, int]]
"""``(start, sequences, length)`` of each group of sequences of equal length, in tokens."""


@dataclass(frozen=True)
class Packing:
    """Boundaries of packed sequences.

    Attributes:
        longest: Number of tokens of the longest sequence.
        groups: Groups of sequences of equal length.
        starts: Index of the first token of each sequence, int32 of shape ``(sequences,)``.
        bounds: ``starts`` and the total number of tokens, int32 of shape ``(sequences + 1,)``.
        flash: Whether to use variable-length flash attention.
    """

    longest: int
    groups: Groups
    starts: torch.Tensor
    bounds: torch.Tensor
    flash: bool

    @classmethod
    def of(cls, lengths: list[int], bounds: torch.Tensor, *, flash: bool = False) -> Packing:
        """Describe sequences of these lengths, the longest first."""
        groups: Groups = []
        start = 0
        for length, run in groupby(lengths):
            remaining = len(list(run))
            while remaining:
                count = min(remaining, max(1, _GROUP_TOKENS // length))
                groups.append((start, count, length))
                start += count * length
                remaining -= count
        return cls(lengths[0], groups, bounds[:-1], bounds, flash)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence; the signature is that of transformers' attention interface.

    Inputs have the shape ``(1, heads, tokens, width)``.

    Returns:
        The context, of shape ``(1, tokens, heads, width)``, and None for the weights.
    """
    del module, attention_mask
    query, key, value = (tensor.transpose(1, 2)[0] for tensor in (query, key, value))
    context = attend(query, key, value, packing, scaling=scaling, sliding_window=sliding_window)
    return context[None], None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend within each sequence; inputs have the shape ``(tokens, heads, width)``.

    With flash attention, ``query`` may also have the shape ``(sequences, heads, width)``, for the
    first token of each sequence only. ``scaling`` is by default one over the square root of the
    width. ``sliding_window`` is the number of tokens attended to on each side, plus one. The result
    may be written to ``out``.

    Returns:
        The context, with the shape of ``query``.
    """
    if packing.flash:
        return _attend_flash(
            query, key, value, packing, scaling=scaling, sliding_window=sliding_window
        )
    if out is None:
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
    groups = packing.groups
    if sliding_window is None:
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups = attend_without_max_subtraction(query, key, value, groups, scaling=factor, out=out)
    for start, count, length in groups:
        stop = start + count * length
        queries, keys, values = (
            tensor[start:stop].view(count, length, *tensor.shape[1:]).transpose(1, 2)
            for tensor in (query, key, value)
        )
        mask = None
        if sliding_window is not None and length > sliding_window:
            position = torch.arange(length, device=query.device)
            mask = (position[:, None] - position[None, :]).abs() < sliding_window
        context = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
        out[start:stop] = context.transpose(1, 2).flatten(0, 1)
    return out


def attend_without_max_subtraction(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: Groups,
    *,
    scaling: float,
    out: torch.Tensor,
) -> Groups:
    """Attend with softmax without max-subtraction, in the groups in which this is fastest.

    Inputs and ``out``, to which results are written, have the shape ``(tokens, heads, width)``.

    Returns:
        The groups that are still to be computed: all groups on another device, in another data
        type, or if a logit was extreme.
    """
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return groups
    selected: Groups = []
    others: Groups = []
    for start, count, length in groups:
        fastest = (count == 1 or length >= _MIN_LOGITS_LENGTH) and length <= _MAX_LOGITS_LENGTH
        (selected if fastest else others).append((start, count, length))
    if not selected:
        return groups
    heads = query.shape[1]
    longest = max(length for _, _, length in selected)
    scratch = query.new_empty(heads * longest * longest)
    sums = query.new_ones(len(query), heads, 1)
    for start, count, length in selected:
        logits = scratch[: heads * length * length].view(heads, length, length)
        for first in range(start, start + count * length, length):
            rows = slice(first, first + length)
            queries, keys, values = (tensor[rows].transpose(0, 1) for tensor in (query, key, value))
            torch.baddbmm(logits, queries, keys.mT, beta=0, alpha=scaling, out=logits)
            weights = logits.exp_()
            sums[rows] = weights.sum(-1, keepdim=True).transpose(0, 1)
            torch.div(torch.bmm(weights, values).transpose(0, 1), sums[rows], out=out[rows])
    smallest, largest = sums.aminmax()
    exact = bool((smallest >= _MIN_SUM) & (largest <= _MAX_SUM))
    return others if exact else groups


def supports_flash_attention(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether variable-length flash attention is available on a device in a data type."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    if find_spec("torch.nn.attention.varlen") is None:  # torch before 2.10
        return False
    return torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY


def _attend_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    *,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  (torch >= 2.10, CUDA)

    bounds = (packing.bounds, packing.bounds)
    longest = (packing.longest, packing.longest)
    side = -1 if sliding_window is None else sliding_window - 1
    if len(query) != len(key):  # only the first token of each sequence
        starts = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
        bounds, longest, side = (starts, packing.bounds), (1, packing.longest), -1
    context = varlen_attn(
        query, key, value, *bounds, *longest, scale=scaling, window_size=(side, side)
    )
    return cast("torch.Tensor", context)


AttentionInterface.register(PACKED, packed_attention)
