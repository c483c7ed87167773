"""What calibration is worth: ``python -m benchmarks.calibration ../shared/data``.

For each retrieval set: the calibration error of the sigmoid, and of both calibrators on
questions they were not fitted on, and what a threshold for a precision reaches there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import numpy as np
import typer

from benchmarks.candidates import Candidates, candidates
from benchmarks.environment import ROOT, environment
from benchmarks.found import DEPTH, SEED
from rerank_plugins import Reranker
from rerank_plugins.core.calibration import Method, sigmoid
from rerank_plugins.evaluation.calibration import (
    brier_score,
    cross_validated,
    expected_calibration_error,
)
from rerank_plugins.types import ModelIdentity

RESULTS: Final = ROOT / "benchmarks" / "results" / "calibration.json"
SETS: Final = ("stackfaq", "nq-gold")
PRECISION: Final = 0.9


def measure(found: Candidates, model: ModelIdentity) -> dict[str, Any]:
    """Measure the sigmoid and both methods on the candidates of one set.

    The sigmoid has a threshold too: its own claim, the precision itself.
    """
    scores, labels = found.raw_scores.ravel(), found.grades.ravel()
    questions, depth = found.raw_scores.shape
    queries = np.repeat(np.arange(questions), depth).tolist()
    claimed = sigmoid(scores.astype(np.float64))
    kept, relevant = claimed >= PRECISION, labels > 0
    results: dict[str, Any] = {
        "questions": questions,
        "pairs": len(labels),
        "relevant": int(relevant.sum()),
        "sigmoid": {
            "calibration_error": expected_calibration_error(claimed, labels),
            "brier": brier_score(claimed, labels),
            "precision": float(relevant[kept].mean()) if kept.any() else None,
            "kept": int(kept.sum()),
            "recall": float(relevant[kept].sum() / relevant.sum()),
        },
    }
    for method in get_args(Method):
        held_out = cross_validated(
            scores, labels, queries, model=model, method=method, precision=PRECISION
        )._asdict()
        del held_out["probabilities"]
        results[method] = held_out
    return results


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
        "precision": PRECISION,
        "environment": environment(),
        "sets": {
            name: measure(candidates(sets / name, questions, reranker, scored), model)
            for name in SETS
        },
    }
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
