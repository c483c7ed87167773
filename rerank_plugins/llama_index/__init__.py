"""LlamaIndex: a node postprocessor and an embedding over the shared core.

Needs the extra ``llama-index``. The names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rerank_plugins._optional import require

if TYPE_CHECKING:
    from rerank_plugins.llama_index.embeddings import BiEncoderEmbedding
    from rerank_plugins.llama_index.postprocessor import CrossEncoderPostprocessor

__all__ = ["BiEncoderEmbedding", "CrossEncoderPostprocessor"]

_HOMES = {
    "BiEncoderEmbedding": "rerank_plugins.llama_index.embeddings",
    "CrossEncoderPostprocessor": "rerank_plugins.llama_index.postprocessor",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (any public name)
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    require("llama_index.core", "llama-index")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
