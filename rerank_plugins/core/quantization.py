"""Embedding quantization: truncated dimensions, int8 and binary numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.config import Precision, validate_choice, validate_count
from rerank_plugins.engine.backend import unit_vectors
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.types import FloatArray

Ranges = Sequence[Sequence[float]]

_STEPS = 255
_MIDDLE = 128
_NDIM = 2


@dataclass(frozen=True)
class EmbeddingFormat:
    """The form in which a model's unit vectors are returned.

    Attributes:
        truncate_dim: Number of leading dimensions to keep; None keeps all. The vectors are
            normalized again. For models trained for truncation (Matryoshka).
        precision: ``"float32"``; ``"int8"`` and ``"uint8"``: one of 256 steps between the
            minimum and the maximum of each dimension; ``"binary"`` and ``"ubinary"``: the signs,
            eight per byte (signed or unsigned).
        ranges: These minima and maxima, ``(2, dimensions)``; required for int8 and uint8.

    Source: sentence-transformers' ``quantize_embeddings``, which gives the same numbers. It takes
    missing ranges from the texts of each call, so that vectors of two calls do not compare.
    """

    truncate_dim: int | None = None
    precision: Precision = "float32"
    ranges: Ranges | None = None

    def __post_init__(self) -> None:
        """Validate every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        validate_count("truncate_dim", self.truncate_dim, "for all dimensions")
        validate_choice("precision", self.precision, get_args(Precision))
        integer = self.precision in ("int8", "uint8")
        if integer and self.ranges is None:
            message = (
                f"precision is {self.precision!r}, and ranges is None; give the minimum and the "
                "maximum of each dimension over a sample of documents: "
                "BiEncoder(...).quantization_ranges(texts)."
            )
            raise ConfigurationError(message)
        if not integer and self.ranges is not None:
            message = f"ranges are for precision 'int8' and 'uint8'; it is {self.precision!r}."
            raise ConfigurationError(message)
        if self.ranges is not None:
            object.__setattr__(self, "ranges", _validate_ranges(self.ranges))

    def dimension(self, full: int) -> int:
        """Return how many dimensions are kept of a model's.

        Raises:
            ConfigurationError: If the model has fewer than ``truncate_dim``.
        """
        if self.truncate_dim is not None and self.truncate_dim > full:
            message = f"truncate_dim is {self.truncate_dim}, and the model has {full} dimensions."
            raise ConfigurationError(message)
        return self.truncate_dim or full

    def truncate(self, output: RequestOutput) -> RequestOutput:
        """Return truncated unit vectors, still float32."""
        if self.truncate_dim is None or output.values.ndim != _NDIM:
            return output
        values = output.values[:, : self.dimension(output.values.shape[1])]
        return replace(output, values=unit_vectors(values))

    def quantize(self, vectors: FloatArray) -> NDArray[Any]:
        """Return the vectors, one per row, in :attr:`precision`."""
        if self.precision == "float32":
            return vectors
        if self.precision == "ubinary":
            return np.packbits(vectors > 0, axis=-1)
        if self.precision == "binary":
            packed = np.packbits(vectors > 0, axis=-1).astype(np.int16)
            return (packed - _MIDDLE).astype(np.int8)
        minimum, maximum = np.asarray(self.ranges, dtype=np.float32)
        if minimum.shape[0] != vectors.shape[1]:
            message = (
                f"ranges are of {minimum.shape[0]} dimensions, and embeddings have "
                f"{vectors.shape[1]}. Fit them with the same model and truncate_dim."
            )
            raise ConfigurationError(message)
        steps = (maximum - minimum) / _STEPS
        steps = np.where(steps == 0, 1, steps)
        numbers: FloatArray = np.clip(np.floor((vectors - minimum) / steps), 0, _STEPS)
        if self.precision == "uint8":
            return numbers.astype(np.uint8)
        return (numbers - _MIDDLE).astype(np.int8)


def quantization_ranges(vectors: FloatArray) -> FloatArray:
    """Return the minimum and the maximum of each dimension, shape ``(2, dimensions)``.

    Raises:
        InvalidInputError: If there are fewer than two vectors.
    """
    if len(vectors) < _NDIM:
        message = f"ranges need at least 2 texts, better a thousand; there are {len(vectors)}."
        raise InvalidInputError(message)
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def _validate_ranges(ranges: ArrayLike) -> tuple[tuple[float, ...], ...]:
    """Return ranges as tuples, which can be compared and serialized."""
    try:
        values = np.asarray(ranges, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    right = values.ndim == _NDIM and len(values) == _NDIM and np.isfinite(values).all()
    if not right or (values[0] > values[1]).any():
        message = (
            f"ranges has shape {values.shape}; it must be two rows of finite numbers, the minimum "
            "and the maximum of each dimension."
        )
        raise ConfigurationError(message)
    return tuple(tuple(row) for row in values.tolist())
