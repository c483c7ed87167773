"""Padding-free forward passes of rerankers and bi-encoders.

A reranker's score depends on the first token of each sequence, so its last layer is computed for
these tokens only. This is exact, and 14% less work for a model of 6 layers; 17% where the last
layer's keys and values are not computed either.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from rerank_plugins.backends.detection import BERT_LIKE_TYPES
from rerank_plugins.backends.torch.attention import PACKED, Packing
from rerank_plugins.backends.torch.batch import BatchBuilder, PackedBatch, compute_longest_first
from rerank_plugins.backends.torch.cpu_parallel import CPUThreadPool, create_thread_pool
from rerank_plugins.backends.torch.layers import BertLayers
from rerank_plugins.backends.torch.loading import ModularModel, first_position
from rerank_plugins.config import Optimize
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray

_log = logging.getLogger(__name__)


def can_pack(model: Any) -> bool:  # noqa: ANN401  (one of many model classes)
    """Return whether the architecture of a reranker can be packed.

    Others, such as DeBERTa with its relative positions, are computed on padded batches.
    """
    config = model.config
    if isinstance(model, ModularModel) and not model.uses_cls_pooling:
        return False
    if config.model_type == "modernbert":
        return isinstance(model, ModularModel) or bool(config.classifier_pooling == "cls")
    return is_bert_like(model)


def can_pack_encoder(model: SentenceTransformer) -> bool:
    """Return whether the architecture and the pooling of a bi-encoder can be packed."""
    transformer: Any = model[0]
    return pooling_of(model) is not None and is_bert_like(transformer.auto_model)


def is_bert_like(model: Any) -> bool:  # noqa: ANN401  (one of many model classes)
    """Return whether the layers are BERT's: absolute positions, self-attention only."""
    config = model.config
    absolute = getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
    return config.model_type in BERT_LIKE_TYPES and absolute and not config.is_decoder


def pooling_of(model: SentenceTransformer) -> str | None:
    """Return the pooling of a bi-encoder: ``"mean"`` or ``"cls"``, prompts included.

    None if it consists of anything else than a Transformer, such a Pooling and, optionally,
    Normalize.
    """
    modules: list[Any] = list(model)
    kinds = [type(module) for module in modules]
    if kinds not in ([Transformer, Pooling], [Transformer, Pooling, Normalize]):
        return None
    mode = modules[1].pooling_mode
    return mode if mode in ("mean", "cls") and modules[1].include_prompt else None


class PackedModel:
    """A reranker that computes packed batches; see :func:`can_pack`."""

    def __init__(self, model: Any, optimize: Optimize = "none") -> None:  # noqa: ANN401
        """Use the weights of a model; a ModernBERT can then no longer compute padded batches."""
        self._model = model
        self._base = getattr(model, model.base_model_prefix)
        self._layers = None
        if model.config.model_type == "modernbert":
            model.set_attn_implementation(PACKED)
        else:
            self._layers = BertLayers(self._base.encoder, optimize=optimize)

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Compute logits of shape ``(sequences, labels)``."""
        if self._layers is None:
            return self._head(self._modernbert_states(batch))
        return self._head(self._layers(_embed(self._base, batch), batch.packing))

    def _head(self, first: torch.Tensor) -> torch.Tensor:
        """Return the logits for the states of first tokens, of shape ``(sequences, width)``."""
        if isinstance(self._model, ModularModel):
            scores: torch.Tensor = self._model.head(first)
            return scores
        if self._layers is None:
            first = self._model.head(first)
        else:
            pooler = getattr(self._base, "pooler", None)
            # Without a pooler, the classifier itself selects the first token of its input.
            first = first[:, None] if pooler is None else pooler(first[:, None])
        logits: torch.Tensor = self._model.classifier(first)
        return logits

    def _modernbert_states(self, batch: PackedBatch) -> torch.Tensor:
        """Return the final states of the first tokens, of shape ``(sequences, width)``."""
        base, packing, positions = self._base, batch.packing, batch.positions[None]
        hidden = base.embeddings(input_ids=batch.ids[None])
        rotary = {
            kind: base.rotary_emb(hidden, positions, kind) for kind in set(base.config.layer_types)
        }
        *layers, last = base.layers
        for layer in layers:
            rotation = rotary[layer.attention_type]
            hidden = layer(hidden, position_embeddings=rotation, packing=packing)
        normed, rotation = last.attn_norm(hidden), rotary[last.attention_type]
        context, _ = last.attn(normed, position_embeddings=rotation, packing=packing)
        first = (hidden + context)[0, packing.starts]
        states: torch.Tensor = base.final_norm(first + last.mlp(last.mlp_norm(first)))
        return states


class PackedEncoder:
    """A bi-encoder that computes vectors without padding; see :func:`can_pack_encoder`."""

    def __init__(
        self, model: SentenceTransformer, dtype: torch.dtype, *, max_seq_length: int, name: str
    ) -> None:
        """Use the weights of a model on its device."""
        transformer: Any = model[0]
        self._base = transformer.auto_model
        self._max_seq_length = max_seq_length
        self._batches = BatchBuilder(
            model.device,
            dtype,
            typed="token_type_ids" in model.tokenizer.model_input_names,
            pad_id=int(model.tokenizer.pad_token_id or 0),
            first_position=first_position(self._base),
        )
        self._mean = pooling_of(model) == "mean"
        self._layers = BertLayers(self._base.encoder, all_tokens=self._mean)
        self.thread_pool: CPUThreadPool | None = None
        if model.device.type == "cpu":
            self.thread_pool = create_thread_pool(self._base, name)

    def __call__(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Return vectors of shape ``(len(batch), width)``, float32, not normalized."""
        if self.thread_pool is None:
            return self._compute(batch)
        return self.thread_pool.run(self._compute, batch)

    def close(self) -> None:
        """End the threads."""
        if self.thread_pool is not None:
            self.thread_pool.close()

    def _compute(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        rounded = self._batches.round_up(batch, self._max_seq_length)
        return compute_longest_first(rounded, self._vectors)[: len(batch)]

    def _vectors(self, batch: Sequence[TokenizedItem]) -> torch.Tensor:
        packed = self._batches.pack(batch)
        states = self._layers(_embed(self._base, packed), packed.packing)
        return _means(states, packed.packing) if self._mean else states


def outputs_agree(packed: FloatArray, padded: FloatArray, name: str, dtype: str) -> bool:
    """Return whether a packed model computes what the padded one does; log a warning if not.

    ``packed`` are its results for the probes, from one run or stacked from several.
    """
    difference = float(np.abs(packed - padded).max())
    tolerance = 1e-4 if dtype == "float32" else 0.02 * (1 + float(np.abs(padded).max()))
    if difference <= tolerance:
        return True
    _log.warning(
        "%r: packed results differ from padded ones by %g (allowed %g); batches are padded.",
        name,
        difference,
        tolerance,
    )
    return False


def _embed(base: Any, batch: PackedBatch) -> torch.Tensor:  # noqa: ANN401  (one of many)
    """Return the input of the first layer of a BERT-like model, shape ``(tokens, width)``."""
    hidden: torch.Tensor = base.embeddings(
        input_ids=batch.ids[None],
        token_type_ids=batch.types[None],
        position_ids=batch.positions[None],
    )
    if hasattr(base, "embeddings_project"):  # ELECTRA
        hidden = base.embeddings_project(hidden)
    return hidden[0]


def _means(states: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Return the mean state of each sequence, float32."""
    means = []
    for start, count, length in packing.groups:
        rows = states[start : start + count * length].view(count, length, -1)
        means.append(rows.mean(1, dtype=torch.float32))
    return torch.cat(means)
