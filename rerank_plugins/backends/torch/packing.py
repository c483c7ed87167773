"""A padding-free forward pass that computes the last layer for the first tokens only.

The score is read off the first token of each sequence. In the last layer, only these ask, and
the feed-forward and everything after it is needed of them alone: exact, and 14% less work for a
model of 6 layers. Where keys and values are not needed either (``first_token.py``), it is 17%.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from rerank_plugins.backends.torch.attention import PACKED, Packing
from rerank_plugins.backends.torch.batch import Inputs, PackedBatch, longest_first
from rerank_plugins.backends.torch.cpu_parallel import CPUThreadPool, lanes_for
from rerank_plugins.backends.torch.layers import BertLayers
from rerank_plugins.backends.torch.loading import first_position
from rerank_plugins.backends.torch.modular import ModularModel
from rerank_plugins.config import Optimize
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray

_BERT_LIKE: Final = ("bert", "roberta", "xlm-roberta", "electra")
_MODERN: Final = "modernbert"


def can_pack(model: Any) -> bool:  # noqa: ANN401  (one of many model classes)
    """Return whether the architecture is one whose layers are known here.

    Relative positions (DeBERTa) and others are computed on padded batches instead.
    """
    config = model.config
    if isinstance(model, ModularModel) and not model.reads_first_token:
        return False
    if config.model_type == _MODERN:
        return isinstance(model, ModularModel) or bool(config.classifier_pooling == "cls")
    return is_bert_like(model)


def is_bert_like(model: Any) -> bool:  # noqa: ANN401  (one of many model classes)
    """Return whether the layers are BERT's: absolute positions, self-attention only."""
    config = model.config
    absolute = getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
    return config.model_type in _BERT_LIKE and absolute and not config.is_decoder


def has_bert_layers(model: Any) -> bool:  # noqa: ANN401  (one of many model classes)
    """Return whether the architecture is packed, and its layers are :class:`BertLayers`."""
    return can_pack(model) and model.config.model_type in _BERT_LIKE


def embedded(base: Any, batch: PackedBatch) -> torch.Tensor:  # noqa: ANN401  (one of many)
    """Return what the first layer of a BERT-like model reads, shape ``(tokens, width)``."""
    hidden: torch.Tensor = base.embeddings(
        input_ids=batch.ids[None],
        token_type_ids=batch.types[None],
        position_ids=batch.positions[None],
    )
    if hasattr(base, "embeddings_project"):  # ELECTRA
        hidden = base.embeddings_project(hidden)
    return hidden[0]


class PackedModel:
    """A model whose attention runs over packed sequences; see :func:`can_pack`."""

    def __init__(self, model: Any, optimize: Optimize = "none") -> None:  # noqa: ANN401
        """Use a model's weights; ModernBERT's cannot run on padded batches any more.

        Args:
            model: A sequence classification model of a known architecture.
            optimize: What its layers are prepared for; ModernBERT's for nothing.
        """
        self._model = model
        self._base = getattr(model, model.base_model_prefix)
        self._layers = None
        if model.config.model_type == _MODERN:
            model.set_attn_implementation(PACKED)
        else:
            self._layers = BertLayers(self._base.encoder, optimize=optimize)

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Compute logits of shape ``(sequences, labels)``."""
        if self._layers is None:
            return self._head(self._modern_first(batch))
        return self._head(self._layers(embedded(self._base, batch), batch.packing))

    def _head(self, first: torch.Tensor) -> torch.Tensor:
        """Return the logits of final states of first tokens, shape ``(sequences, width)``."""
        if isinstance(self._model, ModularModel):
            scores: torch.Tensor = self._model.head(first)
            return scores
        if self._layers is None:
            first = self._model.head(first)
        else:
            pooler = getattr(self._base, "pooler", None)
            # The heads of the other families read the first token of what they are given.
            first = first[:, None] if pooler is None else pooler(first[:, None])
        logits: torch.Tensor = self._model.classifier(first)
        return logits

    def _modern_first(self, batch: PackedBatch) -> torch.Tensor:
        base, packing, positions = self._base, batch.packing, batch.positions[None]
        hidden = base.embeddings(input_ids=batch.ids[None])
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
        normed: torch.Tensor = base.final_norm(first + last.mlp(last.mlp_norm(first)))
        return normed


_POOLINGS: Final = ("mean", "cls")


def pooling_of(model: SentenceTransformer) -> str | None:
    """Return how a bi-encoder of modules that are known here pools its tokens.

    Args:
        model: The bi-encoder.

    Returns:
        ``"mean"`` or ``"cls"``, prompts included; None if it is made of anything else than a
        Transformer, such a Pooling and perhaps Normalize.
    """
    modules: list[Any] = list(model)
    kinds = [type(module) for module in modules]
    if kinds not in ([Transformer, Pooling], [Transformer, Pooling, Normalize]):
        return None
    pooling = modules[1].pooling_mode
    return pooling if pooling in _POOLINGS and modules[1].include_prompt else None


def can_pack_encoder(model: SentenceTransformer) -> bool:
    """Return whether a bi-encoder's layers are known here, and what is made of their output."""
    first: Any = model[0]
    return pooling_of(model) is not None and is_bert_like(first.auto_model)


class PackedEncoder:
    """Computes vectors without padding; see :func:`can_pack_encoder`.

    Attributes:
        lanes: Which compute parts of a batch side by side, on a CPU with several cores.
    """

    def __init__(
        self, model: SentenceTransformer, dtype: torch.dtype, *, max_seq_length: int, name: str
    ) -> None:
        """Use a model's weights.

        Args:
            model: The bi-encoder, on its device.
            dtype: Data type of its arithmetic.
            max_seq_length: Most tokens that it reads.
            name: Its name, for thread names.
        """
        first: Any = model[0]
        self._base = first.auto_model
        self._max_seq_length = max_seq_length
        self._inputs = Inputs(
            model.device,
            dtype,
            typed="token_type_ids" in model.tokenizer.model_input_names,
            pad=int(model.tokenizer.pad_token_id or 0),
            first=first_position(self._base),
        )
        self._mean = pooling_of(model) == "mean"
        self._layers = BertLayers(self._base.encoder, whole=self._mean)
        on_cpu = model.device.type == "cpu"
        self.lanes: CPUThreadPool | None = lanes_for(self._base, name) if on_cpu else None

    def __call__(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Return vectors of shape ``(len(batch), width)``, float32, of any length.

        Args:
            batch: Texts, whose payload is a ``TokenPair``.

        Raises:
            OutOfMemoryError: If the batch does not fit on the device.
        """
        return self.lanes.run(self._part, batch) if self.lanes else self._part(batch)

    def close(self) -> None:
        """Let the threads end."""
        if self.lanes is not None:
            self.lanes.close()

    def _part(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        filled = self._inputs.filled(batch, self._max_seq_length)
        return longest_first(filled, self._vectors)[: len(batch)]

    def _vectors(self, batch: Sequence[TokenizedItem]) -> torch.Tensor:
        packed = self._inputs.packed(batch)
        states = self._layers(embedded(self._base, packed), packed.packing)
        return _means(states, packed.packing) if self._mean else states


def _means(states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Return the mean of each sequence's rows, float32."""
    means = []
    for start, count, length in packing.groups:
        rows = states[start : start + count * length].view(count, length, -1)
        means.append(rows.mean(1, dtype=torch.float32))
    return torch.cat(means)
