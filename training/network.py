"""The cross-encoder's scores with a gradient, without padding on a CPU.

Pairs stand packed one after another, so that linear layers see no padding; attention is
computed for pairs of one length together. In the last layer only first tokens ask, for only
they are read. CUDA devices have the padded forward pass of transformers, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import linear

from rerank_plugins.backends._devices import fast_bfloat16_on_cpu
from rerank_plugins.backends.torch.pairs import TokenPair

Group = tuple[int, int]
"""``(pairs, tokens of a pair)`` of a run of pairs of one length."""

Groups = list[Group]

_FROZEN: Final = "bert.embeddings.word_embeddings.weight"


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Freeze the word embeddings, half of all weights, and return the others by name."""
    found = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != _FROZEN)
        if name != _FROZEN:
            found[name] = parameter
    return found


def scored(model: Any, pairs: Sequence[TokenPair]) -> torch.Tensor:  # noqa: ANN401
    """Compute scores.

    Args:
        model: A ``BertForSequenceClassification`` with one label.
        pairs: What to score.

    Returns:
        Logits, float32 of shape ``(pairs,)``, in the pairs' order.
    """
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].ids))
    ordered = [pairs[at] for at in order]
    device = model.device
    quick = device.type == "cuda" or fast_bfloat16_on_cpu()
    with torch.autocast(device.type, torch.bfloat16, enabled=quick):
        logits = _padded(model, ordered) if device.type == "cuda" else _packed(model, ordered)
    return logits.float()[torch.tensor(np.argsort(order), device=device)]


def _packed(model: Any, pairs: Sequence[TokenPair]) -> torch.Tensor:  # noqa: ANN401
    """Score pairs in order of length."""
    groups = [(len(list(run)), length) for length, run in groupby(len(one.ids) for one in pairs)]
    embedded = model.bert.embeddings
    ids, types = _joined([one.ids for one in pairs]), _joined([one.types for one in pairs])
    places = torch.cat([torch.arange(length).repeat(count) for count, length in groups])
    firsts = torch.nonzero(places == 0)[:, 0]
    states = embedded.LayerNorm(
        embedded.word_embeddings(ids)
        + embedded.position_embeddings(places)
        + embedded.token_type_embeddings(types)
    )
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        states = _finished(layer, states, _seen(layer.attention.self, states, groups))
    seen = _seen_by_first(last.attention.self, states, groups, firsts)
    states = _finished(last, states[firsts], seen)
    logits: torch.Tensor = model.classifier(model.bert.pooler(states.unsqueeze(1)))
    return logits[:, 0]


def _joined(parts: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))


def _mixed(parts: Sequence[torch.nn.Linear], states: torch.Tensor) -> torch.Tensor:
    weight = torch.cat([part.weight for part in parts])
    return linear(states, weight, torch.cat([part.bias for part in parts])).float()


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend by plain products, which with their gradient are quicker than the fused kernel.

    In float32: many small products in bfloat16 take longer.
    """
    with torch.autocast(query.device.type, enabled=False):
        return torch.softmax((query * scale) @ key.transpose(-1, -2), -1) @ value


def _seen(own: Any, states: torch.Tensor, groups: Groups) -> torch.Tensor:  # noqa: ANN401
    heads, width = own.num_attention_heads, own.attention_head_size
    together = _mixed((own.query, own.key, own.value), states)
    seen = []
    for part, (count, length) in _by_length(together, groups):
        query, key, value = part.view(count, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        looked = _attended(query, key, value, own.scaling)
        seen.append(looked.transpose(1, 2).reshape(count * length, heads * width))
    return torch.cat(seen)


def _seen_by_first(
    own: Any,  # noqa: ANN401
    states: torch.Tensor,
    groups: Groups,
    firsts: torch.Tensor,
) -> torch.Tensor:
    heads, width = own.num_attention_heads, own.attention_head_size
    asked = own.query(states[firsts]).float()
    together = _mixed((own.key, own.value), states)
    seen = []
    queries = torch.split(asked, [count for count, _ in groups])
    for query, (part, (count, length)) in zip(queries, _by_length(together, groups), strict=True):
        key, value = part.view(count, length, 2, heads, width).permute(2, 0, 3, 1, 4)
        looked = _attended(query.view(count, heads, 1, width), key, value, own.scaling)
        seen.append(looked.reshape(count, heads * width))
    return torch.cat(seen)


def _by_length(states: torch.Tensor, groups: Groups) -> Iterator[tuple[torch.Tensor, Group]]:
    """Part rows by groups: at once, as the gradient of each slice would have all rows."""
    parts = torch.split(states, [count * length for count, length in groups])
    return zip(parts, groups, strict=True)


def _finished(layer: Any, states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    mixed = layer.attention.output
    states = mixed.LayerNorm(mixed.dense(seen) + states)
    inner = torch.nn.functional.gelu(layer.intermediate.dense(states))
    finished: torch.Tensor = layer.output.LayerNorm(layer.output.dense(inner) + states)
    return finished


def _padded(model: Any, pairs: Sequence[TokenPair]) -> torch.Tensor:  # noqa: ANN401
    longest = len(pairs[-1].ids)
    shape = (len(pairs), longest)
    ids, types, mask = (np.zeros(shape, np.int64) for _ in range(3))
    for row, one in enumerate(pairs):
        ids[row, : len(one.ids)] = one.ids
        types[row, : len(one.ids)] = one.types
        mask[row, : len(one.ids)] = 1
    batch = (torch.from_numpy(part).to(model.device) for part in (ids, mask, types))
    logits: torch.Tensor = model(*batch).logits
    return logits[:, 0]
