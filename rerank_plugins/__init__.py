"""Two-stage retrieval for LangChain, LlamaIndex and plain Python.

Importing this package loads neither torch nor a framework: the public names below are
imported when they are first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rerank_plugins import backends as _backends  # noqa: F401  (registers the loaders)

if TYPE_CHECKING:
    from rerank_plugins.core.bi_encoder import BiEncoder
    from rerank_plugins.core.reranker import Reranker
    from rerank_plugins.core.types import RankedDocument, Ranking

__version__ = "0.1.0"

__all__ = ["BiEncoder", "RankedDocument", "Ranking", "Reranker", "__version__"]

_HOMES = {
    "BiEncoder": "rerank_plugins.core.bi_encoder",
    "RankedDocument": "rerank_plugins.core.types",
    "Ranking": "rerank_plugins.core.types",
    "Reranker": "rerank_plugins.core.reranker",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (any public name)
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
