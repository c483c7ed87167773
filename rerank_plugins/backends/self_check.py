"""The check that every local model passes before it serves anybody."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rerank_plugins.engine.backend import Backend, BiEncoderBackend, RoleText
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair

_QUERIES: Final = ("who", "he", "what is it " * 9, "a")
_DOCUMENTS: Final = ("he " * 90, "", "x", "b c")
_ALLOWED: Final = {"float32": 1e-3}
_ALLOWED_HALF: Final = 0.1
"""How far a result may move with its batch, in units of the largest of them plus 1."""


def self_check(backend: Backend[Any]) -> None:
    """Compute awkward texts together and alone; whatever is wrong there would be wrong later.

    Raises:
        ModelLoadError: If a result is missing, is not finite or depends on its batch.
    """
    items: list[Any]
    if isinstance(backend, BiEncoderBackend):
        items = [RoleText(text, "document") for text in _DOCUMENTS]
    else:
        items = [TextPair(*pair) for pair in zip(_QUERIES, _DOCUMENTS, strict=True)]
    prepared = backend.prepare(items, backend.identity.max_length)
    together = np.asarray(backend.run(prepared), dtype=np.float32)
    alone = np.concatenate([backend.run([one]) for one in prepared])
    name, dtype = backend.identity.model, backend.identity.dtype
    if together.shape != alone.shape or len(together) != len(items):
        message = (
            f"{name!r} gives results of shape {together.shape} for {len(items)} awkward texts, and "
            f"{alone.shape} for them one by one. It is not served: its backend does not fit it."
        )
        raise ModelLoadError(message)
    if not (np.isfinite(together).all() and np.isfinite(alone).all()):
        message = (
            f"{name!r} gives results that are not finite in {dtype} for awkward texts. It is not "
            "served: its weights are damaged, or dtype is too narrow for it: try dtype='float32'."
        )
        raise ModelLoadError(message)
    difference = float(np.abs(together - alone).max())
    allowed = _ALLOWED.get(dtype, _ALLOWED_HALF) * (1 + float(np.abs(alone).max()))
    if difference > allowed:
        message = (
            f"results of {name!r} in {dtype} depend on their batch: by {difference:g} on awkward "
            f"texts, where {allowed:g} is allowed. It is not served. Use another backend or dtype."
        )
        raise ModelLoadError(message)
