"""Check that every local model passes before it is used."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rerank_plugins.engine.backend import Backend, BiEncoderBackend, RoleText
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair

_QUERIES: Final = ("who", "he", "what is it " * 9, "a")
_DOCUMENTS: Final = ("he " * 90, "", "x", "b c")
_TOLERANCE: Final = {"float32": 1e-3}
_TOLERANCE_HALF: Final = 0.1
"""Allowed difference between batches, relative to the largest result plus 1."""


def self_check(backend: Backend[Any]) -> None:
    """Compute test texts, such as empty and long ones, in one batch and one by one.

    A backend that does not pass is closed.
    """
    try:
        _check(backend)
    except BaseException:
        backend.close()
        raise


def _check(backend: Backend[Any]) -> None:
    items: list[Any]
    if isinstance(backend, BiEncoderBackend):
        items = [RoleText(text, "document") for text in _DOCUMENTS]
    else:
        items = [TextPair(*pair) for pair in zip(_QUERIES, _DOCUMENTS, strict=True)]
    prepared = backend.prepare(items, backend.identity.max_length)
    together = np.asarray(backend.run(prepared), dtype=np.float32)
    alone = np.concatenate([backend.run([item]) for item in prepared])
    name, dtype = backend.identity.model, backend.identity.dtype
    if together.shape != alone.shape or len(together) != len(items):
        message = (
            f"{name!r} gives results of shape {together.shape} for {len(items)} test texts in one "
            f"batch and {alone.shape} one by one. The model is not served: its backend does not "
            "support it."
        )
        raise ModelLoadError(message)
    if not (np.isfinite(together).all() and np.isfinite(alone).all()):
        message = (
            f"{name!r} gives results that are not finite in {dtype} for test texts. It is not "
            "served: its weights are damaged, or dtype is too narrow. Try dtype='float32'."
        )
        raise ModelLoadError(message)
    difference = float(np.abs(together - alone).max())
    allowed = _TOLERANCE.get(dtype, _TOLERANCE_HALF) * (1 + float(np.abs(alone).max()))
    if difference > allowed:
        message = (
            f"results of {name!r} in {dtype} depend on their batch: for test texts they differ by "
            f"{difference:g}, and at most {allowed:g} is allowed. The model is not served. Use "
            "another backend or dtype."
        )
        raise ModelLoadError(message)
