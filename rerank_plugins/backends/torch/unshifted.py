"""Attention on a CPU in float32, in fewer passes than torch's fused kernel makes.

The fused kernel computes blocks of 32 queries, whose products are too small to be fast, and looks
for each row's largest logit before it takes exponentials. Exponentials of moderate logits need
no shift: the sums of a batch tell whether they were moderate.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import torch

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
