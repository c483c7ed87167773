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

_MODULES = {
    "datasets": ("RetrievalSet", "from_documents", "from_frames", "read_beir"),
    "evaluator": ("Evaluation", "evaluate"),
    "metrics": ("Comparison", "bootstrapped_mean", "compare", "paired_bootstrap"),
    "planner": ("Plan", "plan"),
    "sweeper": ("Setup", "sweep"),
    "tuning": (
        *("LabeledQuery", "cross_validated", "fit_early_exit_margin", "fit_fusion_weight"),
        "reliability_curve",
    ),
}

__getattr__, __dir__ = lazy_names(
    __name__, {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
)
