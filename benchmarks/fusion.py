"""What fusion with the first stage is worth: ``python -m benchmarks.fusion ../shared/data``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.candidates import Candidates, candidates
from benchmarks.environment import ROOT, environment
from benchmarks.found import DEPTH, SEED
from benchmarks.quality import SETS
from rerank_plugins import Reranker
from rerank_plugins.core.ranking import FusionMethod
from rerank_plugins.evaluation.metrics import Difference, paired_bootstrap
from rerank_plugins.evaluation.tuning import LabelledQuery, fit_fusion_weight, fused_quality

RESULTS: Final = ROOT / "benchmarks" / "results" / "fusion.json"
MEASURE: Final = "nDCG@10"
WEIGHT: Final = 0.5


def measure(found: Candidates) -> dict[str, Any]:
    """Measure both stages alone and every way of joining them, on one set."""
    rows = list(zip(found.raw_scores, found.first_stage, found.grades, found.missed, strict=True))
    with_scores = [
        LabelledQuery(raw, grades.tolist(), first, missed.tolist())
        for raw, first, grades, missed in rows
    ]
    with_ranks = [
        LabelledQuery(raw, grades.tolist(), None, missed.tolist())
        for raw, _, grades, missed in rows
    ]
    first = fused_quality(with_scores, "weighted", 0, MEASURE)
    second = fused_quality(with_scores, "weighted", 1, MEASURE)
    results: dict[str, Any] = {
        "questions": len(rows),
        "first_stage": float(first.mean()),
        "cross_encoder": float(second.mean()),
        "over_first_stage": _interval(paired_bootstrap(first, second)),
    }
    plans: dict[str, tuple[list[LabelledQuery], FusionMethod]] = {
        "rrf": (with_ranks, "rrf"),
        "weighted_ranks": (with_ranks, "weighted"),
        "weighted": (with_scores, "weighted"),
    }
    for name, (queries, method) in plans.items():
        values = fused_quality(queries, method, WEIGHT, MEASURE)
        results[name] = {
            "weight": WEIGHT,
            MEASURE: float(values.mean()),
            "over_first_stage": _interval(paired_bootstrap(first, values)),
            "over_cross_encoder": _interval(paired_bootstrap(second, values)),
        }
    fitted = fit_fusion_weight(with_scores, measure=MEASURE)
    results["fitted"] = {
        "weight": fitted.weight,
        MEASURE: fitted.held_out,
        "over_first_stage": _interval(fitted.over_first_stage),
        "over_cross_encoder": _interval(fitted.over_cross_encoder),
    }
    return results


def _interval(difference: Difference) -> dict[str, Any]:
    return {**difference._asdict(), "verdict": difference.verdict}


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    questions: Annotated[int, typer.Option(help="Sample of each set.")] = 200,
    scored: Annotated[Path | None, typer.Option(help="Folder that keeps scores.")] = None,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure all sets and write the figures as JSON."""
    reranker = Reranker().warm_up()
    model = reranker.engine.backend.identity
    results = {
        "model": model.model,
        "dtype": model.dtype,
        "depth": DEPTH,
        "seed": SEED,
        "environment": environment(),
        "sets": {
            name: measure(candidates(sets / name, questions, reranker, scored)) for name in SETS
        },
    }
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
