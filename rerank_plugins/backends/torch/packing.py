"""A padding-free forward pass that computes the last layer for the first tokens only.

The score is read off the first token of each sequence. In the last layer, keys and values
are needed of all tokens, but the query, the feed-forward and everything after it of the
first ones alone: exact, and 14% less work for a model of 6 layers.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from rerank_plugins.backends.torch.attention import PACKED, Packing, attend

_BERT_LIKE: Final = ("bert", "roberta", "xlm-roberta", "electra")
_MODERN: Final = "modernbert"


def can_pack(model: Any) -> bool:  # noqa: ANN401  (one of many model classes)
    """Return whether the architecture is one whose layers are known here.

    Relative positions (DeBERTa) and others are computed on padded batches instead.
    """
    config = model.config
    if config.model_type == _MODERN:
        return bool(config.classifier_pooling == "cls")
    return is_bert_like(model)


def is_bert_like(model: Any) -> bool:  # noqa: ANN401  (one of many model classes)
    """Return whether the layers are BERT's: absolute positions, self-attention only."""
    config = model.config
    absolute = getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
    return config.model_type in _BERT_LIKE and absolute and not config.is_decoder


class PackedModel:
    """A model whose attention runs over packed sequences; see :func:`can_pack`."""

    def __init__(self, model: Any, first_position: int) -> None:  # noqa: ANN401
        """Switch the model to packed attention; it cannot run on padded batches any more.

        Args:
            model: A sequence classification model of a known architecture.
            first_position: Position id of a sequence's first token (2 for RoBERTa's family).
        """
        model.set_attn_implementation(PACKED)
        self._model = model
        self._base = getattr(model, model.base_model_prefix)
        self._first_position = first_position
        self._modern = model.config.model_type == _MODERN

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor | None, lengths: list[int]
    ) -> torch.Tensor:
        """Compute logits.

        Args:
            ids: Token ids of all sequences, shape ``(tokens,)``.
            types: Token type ids, the same shape, or None for a model without.
            lengths: Tokens of each sequence, longest first.

        Returns:
            Logits of shape ``(sequences, labels)``.
        """
        packing = Packing.of(lengths, ids.device, self._base.dtype)
        positions = torch.cat([torch.arange(length) for length in lengths])
        positions = (positions + self._first_position).to(ids.device, non_blocking=True)[None]
        if self._modern:
            return self._modern_logits(ids[None], positions, packing)
        return self._bert_logits(ids[None], types, positions, packing)

    def _bert_logits(
        self,
        ids: torch.Tensor,
        types: torch.Tensor | None,
        positions: torch.Tensor,
        packing: Packing,
    ) -> torch.Tensor:
        base = self._base
        types = torch.zeros_like(ids) if types is None else types[None]
        hidden = base.embeddings(input_ids=ids, token_type_ids=types, position_ids=positions)
        if hasattr(base, "embeddings_project"):  # ELECTRA
            hidden = base.embeddings_project(hidden)
        for layer in base.encoder.layer[:-1]:
            hidden = layer(hidden, packing=packing)
        first = _last_bert_layer(base.encoder.layer[-1], hidden[0], packing)
        pooler = getattr(base, "pooler", None)
        # The heads of the other families read the first token of what they are given.
        features = first[:, None] if pooler is None else pooler(first[:, None])
        logits: torch.Tensor = self._model.classifier(features)
        return logits

    def _modern_logits(
        self, ids: torch.Tensor, positions: torch.Tensor, packing: Packing
    ) -> torch.Tensor:
        base = self._base
        hidden = base.embeddings(input_ids=ids)
        rotary = {
            kind: base.rotary_emb(hidden, positions, kind) for kind in set(base.config.layer_types)
        }
        for layer in base.layers[:-1]:
            turned = rotary[layer.attention_type]
            hidden = layer(hidden, position_embeddings=turned, packing=packing)
        last = base.layers[-1]
        turned = rotary[last.attention_type]
        seen, _ = last.attn(last.attn_norm(hidden), position_embeddings=turned, packing=packing)
        first = (hidden + seen)[0, packing.firsts]
        first = first + last.mlp(last.mlp_norm(first))
        logits: torch.Tensor = self._model.classifier(self._model.head(base.final_norm(first)))
        return logits


def _last_bert_layer(layer: Any, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:  # noqa: ANN401
    """Compute a BERT-like layer for the first token of each sequence.

    Args:
        layer: The layer.
        hidden: Its input, shape ``(tokens, width)``.
        packing: Where sequences begin and end.

    Returns:
        Shape ``(sequences, width)``.
    """
    attention = layer.attention.self
    first = hidden[packing.firsts]
    heads = (-1, attention.attention_head_size)
    query, key, value = (
        project(states).unflatten(-1, heads)
        for project, states in (
            (attention.query, first),
            (attention.key, hidden),
            (attention.value, hidden),
        )
    )
    seen = attend(query, key, value, packing, scaling=attention.scaling)
    mixed = layer.attention.output(seen.flatten(1), first)
    output: torch.Tensor = layer.output(layer.intermediate(mixed), mixed)
    return output
