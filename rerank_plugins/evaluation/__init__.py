"""Retrieval sets, ranking metrics, comparisons, sweeps and plans.

The public names are imported when they are first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.evaluation.datasets import (
        RetrievalSet,
        from_documents,
        from_frames,
        read_beir,
    )
    from rerank_plugins.evaluation.evaluator import Evaluation, evaluate
    from rerank_plugins.evaluation.metrics import (
        Comparison,
        bootstrapped_mean,
        compare,
        paired_bootstrap,
    )
    from rerank_plugins.evaluation.planner import Plan, plan
    from rerank_plugins.evaluation.sweeper import Setup, sweep
    from rerank_plugins.evaluation.tuning import (
        LabeledQuery,
        cross_validated,
        fit_early_exit_margin,
        fit_fusion_weight,
        reliability_curve,
    )

__all__ = [
    "Comparison",
    "Evaluation",
    "LabeledQuery",
    "Plan",
    "RetrievalSet",
    "Setup",
    "bootstrapped_mean",
    "compare",
    "cross_validated",
    "evaluate",
    "fit_early_exit_margin",
    "fit_fusion_weight",
    "from_documents",
    "from_frames",
    "paired_bootstrap",
    "plan",
    "read_beir",
    "reliability_curve",
    "sweep",
]

_HOMES = {
    "Comparison": "rerank_plugins.evaluation.metrics",
    "Evaluation": "rerank_plugins.evaluation.evaluator",
    "LabeledQuery": "rerank_plugins.evaluation.tuning",
    "Plan": "rerank_plugins.evaluation.planner",
    "RetrievalSet": "rerank_plugins.evaluation.datasets",
    "Setup": "rerank_plugins.evaluation.sweeper",
    "bootstrapped_mean": "rerank_plugins.evaluation.metrics",
    "compare": "rerank_plugins.evaluation.metrics",
    "cross_validated": "rerank_plugins.evaluation.tuning",
    "evaluate": "rerank_plugins.evaluation.evaluator",
    "fit_early_exit_margin": "rerank_plugins.evaluation.tuning",
    "fit_fusion_weight": "rerank_plugins.evaluation.tuning",
    "from_documents": "rerank_plugins.evaluation.datasets",
    "from_frames": "rerank_plugins.evaluation.datasets",
    "paired_bootstrap": "rerank_plugins.evaluation.metrics",
    "plan": "rerank_plugins.evaluation.planner",
    "read_beir": "rerank_plugins.evaluation.datasets",
    "reliability_curve": "rerank_plugins.evaluation.tuning",
    "sweep": "rerank_plugins.evaluation.sweeper",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
