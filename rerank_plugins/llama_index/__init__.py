"""LlamaIndex: a node postprocessor and an embedding over the shared core.

Needs the extra ``llama-index``. The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.llama_index.embeddings import BiEncoderEmbedding
    from rerank_plugins.llama_index.postprocessor import CrossEncoderPostprocessor

__all__ = ["BiEncoderEmbedding", "CrossEncoderPostprocessor"]

_HOMES = {
    "BiEncoderEmbedding": "rerank_plugins.llama_index.embeddings",
    "CrossEncoderPostprocessor": "rerank_plugins.llama_index.postprocessor",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES, needs=("llama_index.core", "llama-index"))
