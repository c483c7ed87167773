"""Measuring rankings: retrieval sets, metrics and honest comparisons.

The public names are imported when they are first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.evaluation.beir import RetrievalSet, read_beir
    from rerank_plugins.evaluation.planning import plan
    from rerank_plugins.evaluation.plans import Plan
    from rerank_plugins.evaluation.results import Evaluation
    from rerank_plugins.evaluation.running import evaluate
    from rerank_plugins.evaluation.sets import from_documents, from_frames
    from rerank_plugins.evaluation.significance import Comparison, compare

__all__ = [
    "Comparison",
    "Evaluation",
    "Plan",
    "RetrievalSet",
    "compare",
    "evaluate",
    "from_documents",
    "from_frames",
    "plan",
    "read_beir",
]

_HOMES = {
    "Comparison": "rerank_plugins.evaluation.significance",
    "Evaluation": "rerank_plugins.evaluation.results",
    "Plan": "rerank_plugins.evaluation.plans",
    "RetrievalSet": "rerank_plugins.evaluation.beir",
    "compare": "rerank_plugins.evaluation.significance",
    "evaluate": "rerank_plugins.evaluation.running",
    "from_documents": "rerank_plugins.evaluation.sets",
    "from_frames": "rerank_plugins.evaluation.sets",
    "plan": "rerank_plugins.evaluation.planning",
    "read_beir": "rerank_plugins.evaluation.beir",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
