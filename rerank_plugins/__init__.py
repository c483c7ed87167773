"""Two-stage retrieval for LangChain, LlamaIndex and plain Python.

Importing this package loads neither torch nor a framework: the public names below are
imported when they are first used (PEP 562).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rerank_plugins import backends as _backends  # noqa: F401  (registers the loaders)
from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.backends.model_specs import DecoderSpec, FlagSpec, OpenVINOSpec, RemoteSpec
    from rerank_plugins.core.bi_encoder import BiEncoder, BiEncoderScorer
    from rerank_plugins.core.cascade import Cascade, Stage
    from rerank_plugins.core.reranker import Reranker
    from rerank_plugins.types import RankedDocument, Ranking

__version__ = "0.1.0"

__all__ = [
    "BiEncoder",
    "BiEncoderScorer",
    "Cascade",
    "DecoderSpec",
    "FlagSpec",
    "OpenVINOSpec",
    "RankedDocument",
    "Ranking",
    "RemoteSpec",
    "Reranker",
    "Stage",
    "__version__",
]

_HOMES = {
    "BiEncoder": "rerank_plugins.core.bi_encoder",
    "BiEncoderScorer": "rerank_plugins.core.bi_encoder",
    "Cascade": "rerank_plugins.core.cascade",
    "DecoderSpec": "rerank_plugins.backends.model_specs",
    "FlagSpec": "rerank_plugins.backends.model_specs",
    "OpenVINOSpec": "rerank_plugins.backends.model_specs",
    "RankedDocument": "rerank_plugins.types",
    "Ranking": "rerank_plugins.types",
    "RemoteSpec": "rerank_plugins.backends.model_specs",
    "Reranker": "rerank_plugins.core.reranker",
    "Stage": "rerank_plugins.core.cascade",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

# Whoever uses the package decides where its log goes; until then, nowhere.
logging.getLogger(__name__).addHandler(logging.NullHandler())
