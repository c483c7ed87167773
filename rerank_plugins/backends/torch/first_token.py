"""What the first tokens see in a layer of which only they are needed, at little cost."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from rerank_plugins.backends.torch.attention import Packing
from rerank_plugins.backends.torch.layers import Linear


def seen_by_first(
    mixing: Linear,
    hidden: torch.Tensor,
    packing: Packing,
    *,
    heads: tuple[int, int],
    scaling: float,
) -> torch.Tensor:
    """Attend from the first token of each sequence, without keys and values of all tokens.

    ``q (h K)`` is ``(q K) h``: where few tokens ask, it is cheaper to bring what their heads
    ask to the width of the states than every state to keys and values. What the bias of the
    keys adds is the same for all tokens, so that it does not change where a head looks; the
    weights of what is seen add up to one, so that the bias of the values is added once.

    Args:
        mixing: Into query, key and value.
        hidden: The states of all tokens, shape ``(tokens, width)``.
        packing: Where sequences begin and end.
        heads: Their number and width.
        scaling: Factor of the dot products.

    Returns:
        Shape ``(sequences, width of all heads)``.
    """
    query, key, value = mixing.thirds
    asked = torch.addmm(query.bias, hidden[packing.firsts], query.weight).view(-1, *heads)
    to_states = key.weight.view(-1, *heads).permute(1, 2, 0)
    asking = torch.bmm(asked.transpose(0, 1), to_states).transpose(0, 1)
    seen = torch.empty_like(asking, memory_format=torch.contiguous_format)
    row = 0
    for start, count, length in packing.groups:
        rows = slice(row, row + count)
        states = hidden[start : start + count * length].view(count, 1, length, -1)
        asks = asking[rows].unsqueeze(1)
        seen[rows] = scaled_dot_product_attention(asks, states, states, scale=scaling)[:, 0]
        row += count
    from_states = value.weight.view(-1, *heads).transpose(0, 1)
    return torch.bmm(seen.transpose(0, 1), from_states).transpose(0, 1).flatten(1) + value.bias
