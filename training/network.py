"""The cross-encoder in training: differentiable scores, without padding on a CPU, and the loss.

On a CPU, the pairs of a batch are concatenated, so that linear layers compute no padding, and
attention is computed together for pairs of equal length. The last layer computes first tokens
only, because only their states are used. On a CUDA device, transformers computes the padded batch
in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, gelu, linear, log_softmax
from transformers import AutoModelForSequenceClassification

from rerank_plugins.backends.devices import fast_bfloat16_on_cpu
from rerank_plugins.backends.hub import cross_encoder_folder, quiet_loading
from rerank_plugins.backends.torch.tokenization import TokenPair
from training.settings import TrainSettings

Run = tuple[int, int]
"""``(pairs, tokens per pair)`` of consecutive pairs of equal length."""

_FROZEN: Final = "bert.embeddings.word_embeddings.weight"


def initial_model() -> Any:  # noqa: ANN401
    """Load the embedded cross-encoder in float32, without dropout, on the best device."""
    folder = str(cross_encoder_folder())
    with quiet_loading(folder):
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager"
        )
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def trainable_weights(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Freeze the word embeddings, half of all weights, and return the others by name."""
    weights = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != _FROZEN)
        if name != _FROZEN:
            weights[name] = parameter
    return weights


def score_pairs(model: Any, pairs: Sequence[TokenPair]) -> torch.Tensor:  # noqa: ANN401
    """Compute scores.

    Args:
        model: A ``BertForSequenceClassification`` with one label.
        pairs: Pairs to score.

    Returns:
        Logits, float32 of shape ``(pairs,)``, in the order of the pairs.
    """
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row].ids))
    ordered = [pairs[row] for row in order]
    device = model.device
    bfloat16 = device.type == "cuda" or fast_bfloat16_on_cpu()
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        forward = _padded_forward if device.type == "cuda" else _packed_forward
        logits = forward(model, ordered)
    return logits.float()[torch.tensor(np.argsort(order), device=device)]


def listwise_loss(
    scores: torch.Tensor, labels: torch.Tensor, cosines: torch.Tensor, settings: TrainSettings
) -> torch.Tensor:
    """Return the loss of each list: ListNet's cross-entropy (Cao et al., 2007) of soft targets.

    The target is the softmax of the bi-encoder's cosines, mixed with the label if there is one.
    Labeled lists add the binary cross-entropy of each pair, which keeps the scores of different
    queries comparable. A best candidate with nearly all of the target hides the order of the
    others, so the loss is added again without the best candidate, the best two, and so on, as in
    the Plackett-Luce model.

    Args:
        scores: Logits of shape ``(lists, size)``.
        labels: 1 for relevant candidates, else 0, float32 of the same shape.
        cosines: Cosines of the bi-encoder, float32 of the same shape.
        settings: Temperature and weights.

    Returns:
        Losses of shape ``(lists,)``.
    """
    soft = cosines / settings.temperature
    relevant = labels.sum(-1, keepdim=True)
    labeled = (relevant > 0).float()
    weight = settings.label_weight * labeled
    target = weight * labels / relevant.clamp(min=1) + (1 - weight) * torch.softmax(soft, -1)
    loss = -(target * log_softmax(scores, -1)).sum(-1)
    order = target.argsort(dim=-1, descending=True, stable=True)
    for left_out in range(1, min(settings.tail_depth, scores.shape[-1] - 2) + 1):
        tail = order[:, left_out:]
        tail_target = torch.softmax(soft.gather(-1, tail), -1)
        tail_loss = -(tail_target * log_softmax(scores.gather(-1, tail), -1)).sum(-1)
        loss = loss + settings.tail_weight * tail_loss
    pointwise = binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(-1)
    return loss + settings.pointwise_weight * labeled[:, 0] * pointwise


def _padded_forward(model: Any, pairs: Sequence[TokenPair]) -> torch.Tensor:  # noqa: ANN401
    """Score pairs in order of length as one padded batch."""
    shape = (len(pairs), len(pairs[-1].ids))
    ids, types, mask = (np.zeros(shape, np.int64) for _ in range(3))
    for row, pair in enumerate(pairs):
        ids[row, : len(pair.ids)] = pair.ids
        types[row, : len(pair.ids)] = pair.types
        mask[row, : len(pair.ids)] = 1
    batch = (torch.from_numpy(array).to(model.device) for array in (ids, mask, types))
    logits: torch.Tensor = model(*batch).logits
    return logits[:, 0]


def _packed_forward(model: Any, pairs: Sequence[TokenPair]) -> torch.Tensor:  # noqa: ANN401
    """Score pairs in order of length without padding."""
    lengths = groupby(len(pair.ids) for pair in pairs)
    runs = [(len(list(run)), length) for length, run in lengths]
    embeddings = model.bert.embeddings
    ids = _concatenated([pair.ids for pair in pairs])
    types = _concatenated([pair.types for pair in pairs])
    positions = torch.cat([torch.arange(length).repeat(count) for count, length in runs])
    firsts = torch.nonzero(positions == 0)[:, 0]
    states = embeddings.LayerNorm(
        embeddings.word_embeddings(ids)
        + embeddings.position_embeddings(positions)
        + embeddings.token_type_embeddings(types)
    )
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        context = _self_attention(layer.attention.self, states, runs)
        states = _layer_output(layer, states, context)
    context = _first_token_attention(last.attention.self, states, runs, firsts)
    states = _layer_output(last, states[firsts], context)
    logits: torch.Tensor = model.classifier(model.bert.pooler(states.unsqueeze(1)))
    return logits[:, 0]


def _concatenated(arrays: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _self_attention(
    module: Any,  # noqa: ANN401
    states: torch.Tensor,
    runs: Sequence[Run],
) -> torch.Tensor:
    heads, width = module.num_attention_heads, module.attention_head_size
    projected = _projected((module.query, module.key, module.value), states)
    outputs = []
    for rows, (count, length) in _split(projected, runs):
        query, key, value = rows.view(count, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        context = _attention(query, key, value, module.scaling)
        outputs.append(context.transpose(1, 2).reshape(count * length, heads * width))
    return torch.cat(outputs)


def _first_token_attention(
    module: Any,  # noqa: ANN401
    states: torch.Tensor,
    runs: Sequence[Run],
    firsts: torch.Tensor,
) -> torch.Tensor:
    heads, width = module.num_attention_heads, module.attention_head_size
    first_queries = module.query(states[firsts]).float()
    projected = _projected((module.key, module.value), states)
    outputs = []
    queries = torch.split(first_queries, [count for count, _ in runs])
    for query, (rows, (count, length)) in zip(queries, _split(projected, runs), strict=True):
        key, value = rows.view(count, length, 2, heads, width).permute(2, 0, 3, 1, 4)
        context = _attention(query.view(count, heads, 1, width), key, value, module.scaling)
        outputs.append(context.reshape(count, heads * width))
    return torch.cat(outputs)


def _projected(layers: Sequence[torch.nn.Linear], states: torch.Tensor) -> torch.Tensor:
    """Apply several linear layers as one product."""
    weight = torch.cat([layer.weight for layer in layers])
    return linear(states, weight, torch.cat([layer.bias for layer in layers])).float()


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend with plain products, which are faster with a gradient than the fused kernel.

    The products are in float32, because many small products are slower in bfloat16.
    """
    with torch.autocast(query.device.type, enabled=False):
        return torch.softmax((query * scale) @ key.transpose(-1, -2), -1) @ value


def _split(states: torch.Tensor, runs: Sequence[Run]) -> Iterator[tuple[torch.Tensor, Run]]:
    """Split rows by runs with one operation, since the gradient of a slice has all rows."""
    parts = torch.split(states, [count * length for count, length in runs])
    return zip(parts, runs, strict=True)


def _layer_output(layer: Any, states: torch.Tensor, context: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Apply what follows attention in a layer: projection, feed-forward, norms, residuals."""
    attention = layer.attention.output
    states = attention.LayerNorm(attention.dense(context) + states)
    inner = gelu(layer.intermediate.dense(states))
    output: torch.Tensor = layer.output.LayerNorm(layer.output.dense(inner) + states)
    return output
