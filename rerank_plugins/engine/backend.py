"""The contract between the engine and its backends: the protocols of a model.

A backend works in two steps, so that texts are tokenized once and batches are planned by true
token counts: :meth:`Backend.prepare` tokenizes items (in any thread, without the model), and
:meth:`Backend.run` computes one batch of them, which may mix the items of many callers.

Two attributes are optional: ``workers``, the number of batches that the backend can run at once
(default 1: the engine calls ``run`` from one thread at a time), and ``prepare_items``, the
maximum number of items of a request per call of ``prepare`` (default 64; more for a backend
that does not tokenize, so that a long request is one batch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale, TextPair

Role = Literal["query", "document"]


class RoleText(NamedTuple):
    """A text for a bi-encoder, its role, and its prompt (None is the model's own)."""

    text: str
    role: Role
    prompt: str | None = None


@dataclass(frozen=True)
class TokenizedItem:
    """One tokenized item.

    Attributes:
        tokens: Tokens of the model's input; an estimate for a remote model.
        truncated: Whether the text was longer than the maximum length.
        payload: The input that the backend computes.
    """

    tokens: int
    truncated: bool
    payload: Any


ItemT_contra = TypeVar("ItemT_contra", contravariant=True)


class Backend(Protocol[ItemT_contra]):
    """A model, local or remote."""

    @property
    def identity(self) -> ModelIdentity:
        """What results depend on, apart from the items."""

    @property
    def batch_tokens(self) -> int:
        """Maximum number of tokens per call of :meth:`run`."""

    @property
    def is_padded(self) -> bool:
        """Whether padding counts toward those tokens, because :meth:`run` computes it."""

    def prepare(
        self, items: Sequence[ItemT_contra], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Tokenize and truncate items, and return one result per item in order; thread-safe.

        A ``max_length`` of None, or more than the model's maximum, is the model's maximum.
        """

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Compute one batch; the first axis of the result is the batch, in order.

        Raises:
            OutOfMemoryError: If the batch does not fit on the device; the engine then runs
                smaller ones. No other failure may raise this error.
            BatchError: If the failed items are known; the engine then runs nothing again.
            InferenceError: If the model fails; any other exception is mapped to it.
        """

    def close(self) -> None:
        """Release the model; idempotent."""


@runtime_checkable
class CrossEncoderBackend(Backend[TextPair], Protocol):
    """Scores text pairs: :meth:`run` returns raw scores of shape ``(len(batch),)``."""

    @property
    def scale(self) -> ScoreScale:
        """Scale of the raw scores."""


@runtime_checkable
class SupportsTokenSpans(Protocol):
    """A cross-encoder backend that locates tokens in a text, for splitting it into windows."""

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return how many tokens of a document fit together with a query, at least 1."""

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token; shape ``(tokens, 2)`` per text."""


@runtime_checkable
class SupportsPrompts(Protocol):
    """A cross-encoder backend whose model has its own prompts."""

    @property
    def prompts(self) -> Mapping[Role, str]:
        """Prompts for queries and documents in the model's configuration."""


@runtime_checkable
class BiEncoderBackend(Backend[RoleText], Protocol):
    """Embeds texts: :meth:`run` returns unit vectors of shape ``(len(batch), dimension)``."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""


def validate_backend(model: object, protocol: type[Any]) -> None:
    """Check that an object given as a model implements a protocol of this module."""
    if not isinstance(model, protocol):
        message = (
            f"model is {type(model).__name__}; give a name, a folder, or an object with the "
            f"methods of {__name__}.{protocol.__name__}."
        )
        raise ConfigurationError(message)


def unit_vectors(vectors: FloatArray) -> FloatArray:
    """Return rows of length 1 in float32; rows of zeros stay zeros.

    A model that normalizes in half precision is off by 1e-3.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
