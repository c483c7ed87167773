"""Measuring rankings: retrieval sets, metrics and honest comparisons.

The public names are imported when they are first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.evaluation.beir import RetrievalSet, read_beir
    from rerank_plugins.evaluation.results import Evaluation
    from rerank_plugins.evaluation.running import evaluate
    from rerank_plugins.evaluation.sets import from_documents, from_frames
    from rerank_plugins.evaluation.significance import Comparison, compare

__all__ = [
    "Comparison",
    "Evaluation",
    "RetrievalSet",
    "compare",
    "evaluate",
    "from_documents",
    "from_frames",
    "read_beir",
]

_HOMES = {
    "Comparison": "rerank_plugins.evaluation.significance",
    "Evaluation": "rerank_plugins.evaluation.results",
    "RetrievalSet": "rerank_plugins.evaluation.beir",
    "compare": "rerank_plugins.evaluation.significance",
    "evaluate": "rerank_plugins.evaluation.running",
    "from_documents": "rerank_plugins.evaluation.sets",
    "from_frames": "rerank_plugins.evaluation.sets",
    "read_beir": "rerank_plugins.evaluation.beir",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
