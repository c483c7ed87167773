"""A bi-encoder's transformer over packed texts, by the layers and lanes of cross-encoders.

sentence-transformers pads each batch to its longest text, and computes that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from rerank_plugins.backends.torch.attention import Packing
from rerank_plugins.backends.torch.bert import BertLayers
from rerank_plugins.backends.torch.inputs import Inputs, longest_first
from rerank_plugins.backends.torch.lanes import Lanes, lanes_for
from rerank_plugins.backends.torch.loading import first_position
from rerank_plugins.backends.torch.packing import embedded, is_bert_like
from rerank_plugins.core.protocols import FloatArray, Prepared

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
        self, model: SentenceTransformer, dtype: torch.dtype, *, reach: int, name: str
    ) -> None:
        """Use a model's weights.

        Args:
            model: The bi-encoder, on its device.
            dtype: Data type of its arithmetic.
            reach: Most tokens that it reads.
            name: Its name, for thread names.
        """
        first: Any = model[0]
        self._base = first.auto_model
        self._reach = reach
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
        self.lanes: Lanes | None = lanes_for(self._base, name) if on_cpu else None

    def __call__(self, batch: Sequence[Prepared]) -> FloatArray:
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

    def _part(self, batch: Sequence[Prepared]) -> FloatArray:
        filled = self._inputs.filled(batch, self._reach)
        return longest_first(filled, self._vectors)[: len(batch)]

    def _vectors(self, batch: Sequence[Prepared]) -> torch.Tensor:
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
