"""Reranking for LangChain, LlamaIndex and plain Python.

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
    from rerank_plugins.config import Cache, Dedup, Fusion, Windows
    from rerank_plugins.core.bi_encoder import BiEncoder, BiEncoderScorer
    from rerank_plugins.core.calibration import Calibrator
    from rerank_plugins.core.cascade import Cascade, Stage
    from rerank_plugins.core.reranker import Reranker
    from rerank_plugins.errors import (
        BatchError,
        ConfigurationError,
        EngineClosedError,
        EngineOverloadedError,
        InferenceError,
        InvalidInputError,
        InvalidScoresError,
        MissingDependencyError,
        ModelLoadError,
        OutOfMemoryError,
        RemoteConnectionError,
        RemoteError,
        RemoteStatusError,
        RemoteTimeoutError,
        RerankError,
    )
    from rerank_plugins.types import (
        ModelIdentity,
        RankedDocument,
        Ranking,
        ScoreScale,
        TextPair,
        Window,
    )

__version__ = "0.1.0"

__all__ = [
    "BatchError",
    "BiEncoder",
    "BiEncoderScorer",
    "Cache",
    "Calibrator",
    "Cascade",
    "ConfigurationError",
    "DecoderSpec",
    "Dedup",
    "EngineClosedError",
    "EngineOverloadedError",
    "FlagSpec",
    "Fusion",
    "InferenceError",
    "InvalidInputError",
    "InvalidScoresError",
    "MissingDependencyError",
    "ModelIdentity",
    "ModelLoadError",
    "OpenVINOSpec",
    "OutOfMemoryError",
    "RankedDocument",
    "Ranking",
    "RemoteConnectionError",
    "RemoteError",
    "RemoteSpec",
    "RemoteStatusError",
    "RemoteTimeoutError",
    "RerankError",
    "Reranker",
    "ScoreScale",
    "Stage",
    "TextPair",
    "Window",
    "Windows",
    "__version__",
]

_HOMES = {
    "BatchError": "rerank_plugins.errors",
    "BiEncoder": "rerank_plugins.core.bi_encoder",
    "BiEncoderScorer": "rerank_plugins.core.bi_encoder",
    "Cache": "rerank_plugins.config",
    "Calibrator": "rerank_plugins.core.calibration",
    "Cascade": "rerank_plugins.core.cascade",
    "ConfigurationError": "rerank_plugins.errors",
    "DecoderSpec": "rerank_plugins.backends.model_specs",
    "Dedup": "rerank_plugins.config",
    "EngineClosedError": "rerank_plugins.errors",
    "EngineOverloadedError": "rerank_plugins.errors",
    "FlagSpec": "rerank_plugins.backends.model_specs",
    "Fusion": "rerank_plugins.config",
    "InferenceError": "rerank_plugins.errors",
    "InvalidInputError": "rerank_plugins.errors",
    "InvalidScoresError": "rerank_plugins.errors",
    "MissingDependencyError": "rerank_plugins.errors",
    "ModelIdentity": "rerank_plugins.types",
    "ModelLoadError": "rerank_plugins.errors",
    "OpenVINOSpec": "rerank_plugins.backends.model_specs",
    "OutOfMemoryError": "rerank_plugins.errors",
    "RankedDocument": "rerank_plugins.types",
    "Ranking": "rerank_plugins.types",
    "RemoteConnectionError": "rerank_plugins.errors",
    "RemoteError": "rerank_plugins.errors",
    "RemoteSpec": "rerank_plugins.backends.model_specs",
    "RemoteStatusError": "rerank_plugins.errors",
    "RemoteTimeoutError": "rerank_plugins.errors",
    "RerankError": "rerank_plugins.errors",
    "Reranker": "rerank_plugins.core.reranker",
    "ScoreScale": "rerank_plugins.types",
    "Stage": "rerank_plugins.core.cascade",
    "TextPair": "rerank_plugins.types",
    "Window": "rerank_plugins.types",
    "Windows": "rerank_plugins.config",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

# The application decides where the package's log goes; by default, nowhere.
logging.getLogger(__name__).addHandler(logging.NullHandler())
