"""Attention over packed sequences: each attends to itself only, and nothing is padded.

Packed tokens stand one sequence after another, so the linear layers see no padding; only
attention needs to know where sequences end. On CUDA devices that can, it is one call of
torch's variable-length flash attention; elsewhere one call of scaled dot-product attention
for each group of sequences of equal length, or plain products for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from typing import Final, TypeAlias, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

_LONGEST: Final = 512
"""Tokens of a sequence whose logits, which are held at once, take some megabytes."""

_SHORTEST: Final = 96
"""Of sequences of one length, the fused kernel computes several shorter ones faster together."""

Groups: TypeAlias = list[tuple[int, int, int]]
"""``(start, sequences, length)`` of each run of sequences of one length, in tokens."""

_LEAST, _MOST = 1e-25, 1e30
"""Between these sums of exponentials nothing that counts was too small or too large for float32:
of a row whose sum is the least, terms of 1e-7 of it are still normal numbers."""


def attend_unshifted(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: Groups,
    *,
    scaling: float,
    out: torch.Tensor,
) -> Groups:
    """Attend within the sequences for which this is the fastest way.

    Args:
        query: Shape ``(tokens, heads, width)``.
        key: The same shape.
        value: The same shape.
        groups: All sequences.
        scaling: Factor of the dot products.
        out: Where results are written, the shape of ``query``.

    Returns:
        The groups that are still to be computed: all of them on another device, in another data
        type, or if a logit was extreme.
    """
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return groups
    mine: Groups = []
    others: Groups = []
    for start, count, length in groups:
        suited = (count == 1 or length >= _SHORTEST) and length <= _LONGEST
        (mine if suited else others).append((start, count, length))
    if not mine:
        return groups
    heads = query.shape[1]
    longest = max(length for _, _, length in mine)
    scratch = query.new_empty(heads * longest * longest)
    sums = query.new_ones(len(query), heads, 1)
    for start, count, length in mine:
        logits = scratch[: heads * length * length].view(heads, length, length)
        for first in range(start, start + count * length, length):
            rows = slice(first, first + length)
            asking, keys, values = (part[rows].transpose(0, 1) for part in (query, key, value))
            torch.baddbmm(logits, asking, keys.mT, beta=0, alpha=scaling, out=logits)
            weights = logits.exp_()
            sums[rows] = weights.sum(-1, keepdim=True).transpose(0, 1)
            torch.div(torch.bmm(weights, values).transpose(0, 1), sums[rows], out=out[rows])
    least, most = sums.aminmax()
    moderate = bool((least >= _LEAST) & (most <= _MOST))
    return others if moderate else groups


PACKED: Final = "rerank_plugins_packed"
"""The name under which transformers' models find :func:`packed_attention`."""

_FLASH_CAPABILITY: Final = (8, 0)

_GROUP_TOKENS: Final = 512
"""Sequences of one length are attended to together up to so many tokens, or alone: results of
this size come from memory that the process has, larger ones from the system, page by page."""


@dataclass(frozen=True)
class Packing:
    """Where packed sequences begin and end.

    Attributes:
        longest: No sequence has more tokens.
        groups: Sequences of equal lengths.
        firsts: Index of each sequence's first token, int32 of shape ``(sequences,)``.
        bounds: ``firsts`` and the total, int32 of shape ``(sequences + 1,)``.
        flash: Whether to use variable-length flash attention.
    """

    longest: int
    groups: Groups
    firsts: torch.Tensor
    bounds: torch.Tensor
    flash: bool

    @classmethod
    def of(cls, lengths: list[int], bounds: torch.Tensor, *, flash: bool = False) -> Packing:
        """Describe sequences of these lengths, longest first.

        Args:
            lengths: Tokens of each.
            bounds: Where each begins, and the total, int32 on the device.
            flash: Whether to use variable-length flash attention.
        """
        groups: Groups = []
        start = 0
        for length, run in groupby(lengths):
            left = len(list(run))
            while left:
                count = min(left, max(1, _GROUP_TOKENS // length))
                groups.append((start, count, length))
                start += count * length
                left -= count
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
    """Attend within each sequence; the signature is that of transformers' interface.

    Args:
        module: The layer that calls.
        query: Shape ``(1, heads, tokens, width)``; ``key`` and ``value`` likewise.
        key: See ``query``.
        value: See ``query``.
        attention_mask: None; packed tokens need none.
        packing: Where sequences begin and end.
        scaling: Factor of the dot products; None is one over the root of the width.
        sliding_window: Tokens to each side that are seen, plus one; None is all.

    Returns:
        Shape ``(1, tokens, heads, width)``, and no weights.
    """
    del module, attention_mask
    query, key, value = (part.transpose(1, 2)[0] for part in (query, key, value))
    seen = attend(query, key, value, packing, scaling=scaling, sliding_window=sliding_window)
    return seen[None], None


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
    """Attend within each sequence.

    Args:
        query: Shape ``(tokens, heads, width)``; with flash attention also
            ``(sequences, heads, width)``, for the first token of each sequence alone.
        key: Shape ``(tokens, heads, width)``; ``value`` likewise.
        value: See ``key``.
        packing: Where sequences begin and end.
        scaling: See :func:`packed_attention`.
        sliding_window: See :func:`packed_attention`.
        out: Where the result may be written; None is new memory.

    Returns:
        The shape of ``query``.
    """
    if packing.flash:
        return _attend_flash(
            query, key, value, packing, scaling=scaling, sliding_window=sliding_window
        )
    output = out
    if output is None:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
    groups = packing.groups
    if sliding_window is None:
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups = attend_unshifted(query, key, value, groups, scaling=factor, out=output)
    for start, count, length in groups:
        stop = start + count * length
        asking, keys, values = (
            part[start:stop].view(count, length, *part.shape[1:]).transpose(1, 2)
            for part in (query, key, value)
        )
        window = None
        if sliding_window is not None and length > sliding_window:
            place = torch.arange(length, device=query.device)
            window = (place[:, None] - place[None, :]).abs() < sliding_window
        seen = scaled_dot_product_attention(asking, keys, values, attn_mask=window, scale=scaling)
        output[start:stop] = seen.transpose(1, 2).flatten(0, 1)
    return output


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

    longest = packing.longest
    first_only = len(query) != len(key)
    asked = packing.bounds
    if first_only:
        asked = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
    side = -1 if sliding_window is None or first_only else sliding_window - 1
    output = varlen_attn(
        query,
        key,
        value,
        asked,
        packing.bounds,
        1 if first_only else longest,
        longest,
        scale=scaling,
        window_size=(side, side),
    )
    return cast("torch.Tensor", output)


def can_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether variable-length flash attention runs here in this data type."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    if find_spec("torch.nn.attention.varlen") is None:  # torch before 2.10
        return False
    return torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY


AttentionInterface.register(PACKED, packed_attention)
