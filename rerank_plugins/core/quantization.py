"""Shorter and coarser embeddings: truncated dimensions, int8 and binary numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.config import validate_choice, validate_count
from rerank_plugins.engine.backend import unit_vectors
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.types import FloatArray

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
Ranges = Sequence[Sequence[float]]

_STEPS = 255
_MIDDLE = 128
_NDIM = 2


@dataclass(frozen=True)
class EmbeddingForm:
    """What is made of a model's unit vectors.

    Attributes:
        truncate_dim: How many dimensions are kept, the first ones; None is all. Vectors are
            made unit vectors again. Right for models trained for it (Matryoshka).
        precision: ``"float32"``; ``"int8"`` and ``"uint8"``, one of 256 steps between the
            smallest and the greatest value of each dimension; ``"binary"`` and ``"ubinary"``, the
            signs, eight to a byte (signed or not).
        ranges: Those values, ``(2, dimensions)``; needed for the two integer precisions.

    Source: sentence-transformers' ``quantize_embeddings``, whose numbers these are; but it takes
    ranges that are not given from the texts at hand, so that vectors of two calls do not compare.
    """

    truncate_dim: int | None = None
    precision: Precision = "float32"
    ranges: Ranges | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        validate_count("truncate_dim", self.truncate_dim, "for all dimensions")
        validate_choice("precision", self.precision, get_args(Precision))
        integer = self.precision in ("int8", "uint8")
        if integer and self.ranges is None:
            message = (
                f"precision is {self.precision!r}, and ranges is None; give the least and greatest "
                "value of each dimension over a sample of documents: "
                "BiEncoder(...).value_ranges(texts)."
            )
            raise ConfigurationError(message)
        if not integer and self.ranges is not None:
            message = f"ranges are for precision 'int8' and 'uint8'; it is {self.precision!r}."
            raise ConfigurationError(message)
        if self.ranges is not None:
            object.__setattr__(self, "ranges", _checked_ranges(self.ranges))

    def dimension(self, full: int) -> int:
        """Return how many dimensions are kept of a model's.

        Raises:
            ConfigurationError: If the model has fewer than ``truncate_dim``.
        """
        if self.truncate_dim is not None and self.truncate_dim > full:
            message = f"truncate_dim is {self.truncate_dim}, and the model has {full} dimensions."
            raise ConfigurationError(message)
        return self.truncate_dim or full

    def shortened(self, computed: RequestOutput) -> RequestOutput:
        """Return results with truncated unit vectors, still float32."""
        if self.truncate_dim is None or computed.values.ndim != _NDIM:
            return computed
        values = computed.values[:, : self.dimension(computed.values.shape[1])]
        return replace(computed, values=unit_vectors(values))

    def quantized(self, vectors: FloatArray) -> NDArray[Any]:
        """Return vectors in the precision that was asked for; a row a vector."""
        if self.precision == "float32":
            return vectors
        if self.precision == "ubinary":
            return np.packbits(vectors > 0, axis=-1)
        if self.precision == "binary":
            packed = np.packbits(vectors > 0, axis=-1).astype(np.int16)
            return (packed - _MIDDLE).astype(np.int8)
        least, greatest = np.asarray(self.ranges, dtype=np.float32)
        if least.shape[0] != vectors.shape[1]:
            message = (
                f"ranges are of {least.shape[0]} dimensions, and embeddings have "
                f"{vectors.shape[1]}. Fit them with the same model and truncate_dim."
            )
            raise ConfigurationError(message)
        steps = (greatest - least) / _STEPS
        steps = np.where(steps == 0, 1, steps)
        numbers: FloatArray = np.clip(np.floor((vectors - least) / steps), 0, _STEPS)
        if self.precision == "uint8":
            return numbers.astype(np.uint8)
        return (numbers - _MIDDLE).astype(np.int8)


def value_ranges(vectors: FloatArray) -> FloatArray:
    """Return the least and the greatest value of each dimension, shape ``(2, dimensions)``.

    Raises:
        InvalidInputError: If there are fewer than two vectors.
    """
    if len(vectors) < _NDIM:
        message = f"ranges need at least 2 texts, better a thousand; there are {len(vectors)}."
        raise InvalidInputError(message)
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def _checked_ranges(ranges: ArrayLike) -> tuple[tuple[float, ...], ...]:
    """Return ranges as tuples, which compare and serialize."""
    try:
        values = np.asarray(ranges, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    right = values.ndim == _NDIM and len(values) == _NDIM and np.isfinite(values).all()
    if not right or (values[0] > values[1]).any():
        message = (
            f"ranges has shape {values.shape}; it must be two rows of finite numbers, the least "
            "and the greatest value of each dimension."
        )
        raise ConfigurationError(message)
    return tuple(tuple(row) for row in values.tolist())
