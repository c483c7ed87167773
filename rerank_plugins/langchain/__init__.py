"""Two-stage retrieval for LangChain.

The public names are imported when they are first used (PEP 562), so that importing this
package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES, needs=("langchain_core", "langchain"))
