"""Two-stage retrieval for LangChain.

The public names are imported when they are first used (PEP 562), so that importing this
package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rerank_plugins._optional import require

if TYPE_CHECKING:
    from rerank_plugins.langchain.compressor import CrossEncoderCompressor
    from rerank_plugins.langchain.cross_encoder import CrossEncoderModel
    from rerank_plugins.langchain.embeddings import BiEncoderEmbeddings
    from rerank_plugins.langchain.retriever import RerankRetriever

__all__ = ["BiEncoderEmbeddings", "CrossEncoderCompressor", "CrossEncoderModel", "RerankRetriever"]

_HOMES = {
    "BiEncoderEmbeddings": "rerank_plugins.langchain.embeddings",
    "CrossEncoderCompressor": "rerank_plugins.langchain.compressor",
    "CrossEncoderModel": "rerank_plugins.langchain.cross_encoder",
    "RerankRetriever": "rerank_plugins.langchain.retriever",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (any public name)
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    require("langchain_core", "langchain")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
