"""Two-stage retrieval for LangChain, LlamaIndex and plain Python.

Importing this package loads neither torch nor a framework: the public names below are
imported when they are first used (PEP 562).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rerank_plugins import backends as _backends  # noqa: F401  (registers the loaders)
from rerank_plugins import tracing as _tracing  # noqa: F401  (registers the tracer)
from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.backends._openvino_model import OpenVINOModel
    from rerank_plugins.backends.decoder.settings import DecoderModel
    from rerank_plugins.backends.flag.settings import FlagModel
    from rerank_plugins.backends.remote.settings import RemoteModel
    from rerank_plugins.core.bi_encoder import BiEncoder
    from rerank_plugins.core.bi_encoder_scorer import BiEncoderScorer
    from rerank_plugins.core.cascade import Cascade
    from rerank_plugins.core.reranker import Reranker
    from rerank_plugins.core.stage import Stage
    from rerank_plugins.core.types import RankedDocument, Ranking

__version__ = "0.1.0"

__all__ = [
    "BiEncoder",
    "BiEncoderScorer",
    "Cascade",
    "DecoderModel",
    "FlagModel",
    "OpenVINOModel",
    "RankedDocument",
    "Ranking",
    "RemoteModel",
    "Reranker",
    "Stage",
    "__version__",
]

_HOMES = {
    "BiEncoder": "rerank_plugins.core.bi_encoder",
    "BiEncoderScorer": "rerank_plugins.core.bi_encoder_scorer",
    "Cascade": "rerank_plugins.core.cascade",
    "DecoderModel": "rerank_plugins.backends.decoder.settings",
    "FlagModel": "rerank_plugins.backends.flag.settings",
    "OpenVINOModel": "rerank_plugins.backends._openvino_model",
    "RankedDocument": "rerank_plugins.core.types",
    "Ranking": "rerank_plugins.core.types",
    "RemoteModel": "rerank_plugins.backends.remote.settings",
    "Reranker": "rerank_plugins.core.reranker",
    "Stage": "rerank_plugins.core.stage",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

# Whoever uses the package decides where its log goes; until then, nowhere.
logging.getLogger(__name__).addHandler(logging.NullHandler())
