"""The whole contract between the core and what computes.

A backend works in two steps, so that texts are tokenized once and batches can be planned
by true token counts: :meth:`Backend.prepare` turns items into :class:`TokenizedItem` ones (any
thread, no model), :meth:`Backend.run` computes one batch of them. The batch may mix the
items of many callers. The engine calls ``run`` from one thread at a time, unless the backend
has an attribute ``workers``: the number of batches that it can run at once.
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
    """A text for a bi-encoder, its role, and the prompt (None is the model's own)."""

    text: str
    role: Role
    prompt: str | None = None


@dataclass(frozen=True)
class TokenizedItem:
    """One item made ready for a model.

    Attributes:
        tokens: Tokens the model will read; an estimate where only a server knows.
        truncated: Whether the text was longer than the model's maximum length and was cut.
        payload: Whatever the backend needs to compute it.
    """

    tokens: int
    truncated: bool
    payload: Any


ItemT_contra = TypeVar("ItemT_contra", contravariant=True)


class Backend(Protocol[ItemT_contra]):
    """What computes: a local model or a remote one."""

    @property
    def identity(self) -> ModelIdentity:
        """What results depend on besides the items."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Most tokens that one call of :meth:`run` should hold."""
        ...

    @property
    def is_padded(self) -> bool:
        """Whether padding counts among those tokens, because :meth:`run` computes it."""
        ...

    def prepare(
        self, items: Sequence[ItemT_contra], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Tokenize and cut; thread-safe, one result an item, in order.

        Args:
            items: What to prepare.
            max_length: Most tokens an item may have; None, or more than the model's maximum length,
                is the maximum length.
        """
        ...

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Compute one batch; the first axis of the result is the batch, in order.

        Raises:
            OutOfMemoryError: If the batch does not fit on the device; the engine then tries
                smaller ones. No other failure may be reported as this one.
            BatchError: If the failed items are known; nothing is then run again.
            InferenceError: If the model fails. (Any other exception is mapped to it.)
        """
        ...

    def close(self) -> None:
        """Release the model; calling it twice does no harm."""
        ...


@runtime_checkable
class CrossEncoderBackend(Backend[TextPair], Protocol):
    """Scores text pairs: :meth:`run` returns raw scores of shape ``(len(batch),)``."""

    @property
    def scale(self) -> ScoreScale:
        """What the raw scores mean."""
        ...


@runtime_checkable
class SupportsTokenSpans(Protocol):
    """A cross-encoder backend that can say where tokens begin and end, to cut windows."""

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return how many tokens of a document fit beside a query, at least 1."""
        ...

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token, ``(tokens, 2)`` a text."""
        ...


@runtime_checkable
class SupportsPrompts(Protocol):
    """A cross-encoder backend whose model has prompts of its own."""

    @property
    def prompts(self) -> Mapping[Role, str]:
        """What the model's configuration wants put before queries and documents."""
        ...


@runtime_checkable
class BiEncoderBackend(Backend[RoleText], Protocol):
    """Embeds texts: :meth:`run` returns unit vectors of shape ``(len(batch), dimension)``."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        ...


def validate_backend(model: object, protocol: type[Any]) -> None:
    """Check that an object handed in as a model has what the core calls.

    Raises:
        ConfigurationError: If it has not.
    """
    if not isinstance(model, protocol):
        message = (
            f"model is {type(model).__name__}; give a name, a folder, or an object with the "
            f"methods of {__name__}.{protocol.__name__}."
        )
        raise ConfigurationError(message)


def unit_vectors(vectors: FloatArray) -> FloatArray:
    """Return float32 rows of length 1, and zeros where a row has none.

    Made here and not by a model: in half precision lengths would be off by 1e-3.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
