"""What rounding gains and costs on a CPU: ``python -m benchmarks.cpu ../shared/data``.

Speed: one question and its 10 or 100 passages, ranked in turn by sentence-transformers'
CrossEncoder, by the torch backend and by OpenVINO, all with the same weights; ratios are taken
within a turn, so that a machine that slows down slows all of them. Quality: nDCG@10 over the
same candidates in float32 and in what rounds: int8 and, where the CPU multiplies it, bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder

from benchmarks.environment import ROOT, environment
from benchmarks.found import Found, first_stage
from rerank_plugins import Reranker
from rerank_plugins.backends.devices import fast_bfloat16_on_cpu
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.config import MINI
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query
from rerank_plugins.types import FloatArray

RESULTS: Final = ROOT / "benchmarks" / "results" / "cpu.json"
SETS: Final = ["nq-gold", "squad-dev", "stackfaq", "vaswani"]
COUNTS: Final = (10, 100)
MEASURE: Final = "nDCG@10"
_SHARES: Final = (50, 5, 95)
PEER: Final = "sentence-transformers"
EXACT: Final = "torch float32"
OURS: Final[dict[str, dict[str, Any]]] = {
    EXACT: {"backend": "torch", "dtype": "float32"},
    "torch bfloat16": {"backend": "torch", "dtype": "bfloat16"},
    "openvino float32": {"backend": "openvino", "dtype": "float32"},
    "openvino bfloat16": {"backend": "openvino", "dtype": "bfloat16"},
    "openvino int8": {"backend": "openvino", "dtype": "int8"},
}


def ours() -> dict[str, dict[str, Any]]:
    """Return what this CPU computes quickly."""
    quick = fast_bfloat16_on_cpu()
    return {name: one for name, one in OURS.items() if quick or one["dtype"] != "bfloat16"}


def measure_speed(
    rankers: dict[str, Callable[[str, list[str]], Any]], found: Found, turns: int
) -> dict[str, Any]:
    """Time every ranker on the same questions, one after another, turn by turn.

    Args:
        rankers: What ranks passages for a question; the first is what others are compared to.
        found: Questions with their candidates.
        turns: Questions that are timed; one more goes before them.

    Returns:
        For each count of passages and ranker: medians of seconds (wall clock and CPU), and of
        how many times faster than the first one (5th and 95th percentile as well).
    """
    results: dict[str, Any] = {}
    for count in COUNTS:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in rankers}
        for turn in range(turns + 1):
            question, passages = found.pool(turn, count)
            for name, rank in rankers.items():
                wall, cpu = perf_counter(), process_time()
                rank(question, passages)
                times[name].append((perf_counter() - wall, process_time() - cpu))
        # The first turn prepares what each shape needs.
        taken = {name: np.array(rows[1:]) for name, rows in times.items()}
        slow = next(iter(taken.values()))
        results[str(count)] = {
            name: {
                "seconds": float(np.median(rows[:, 0])),
                "cpu_seconds": float(np.median(rows[:, 1])),
                "faster": [
                    float(one) for one in np.percentile(slow[:, 0] / rows[:, 0], (50, 5, 95))
                ],
                "faster_cpu": float(np.median(slow[:, 1] / rows[:, 1])),
            }
            for name, rows in taken.items()
        }
    return results


def measure_quality(found: Found, exact: Reranker, others: dict[str, Reranker]) -> dict[str, Any]:
    """Compare rankers over the same candidates.

    Args:
        found: Questions with their candidates.
        exact: What others are compared to.
        others: What rounds.

    Returns:
        nDCG@10 of all; of the others also the paired difference with its 95% interval, the
        correlation of the raw scores and the largest difference of two.
    """
    known, before = _ranked(found, exact)
    results = {}
    for name, reranker in others.items():
        raw, after = _ranked(found, reranker)
        change = paired_bootstrap(before, after)
        results[name] = {
            "value": float(after.mean()),
            "change": {**change._asdict(), "verdict": change.verdict},
            "correlation": float(np.corrcoef(known, raw)[0, 1]),
            "largest_difference": float(np.abs(known - raw).max()),
        }
    return {
        "questions": len(found.requests),
        "pairs": len(known),
        "value": float(before.mean()),
        "others": results,
    }


def _ranked(found: Found, reranker: Reranker) -> tuple[FloatArray, NDArray[np.float64]]:
    """Return the raw score of every pair and the measure of every question."""
    rankings = list(reranker.rank_many(found.requests))
    raw = [
        one.raw_score for ranking in rankings for one in sorted(ranking, key=lambda one: one.index)
    ]
    values = per_query(found.data.qrels, found.run(rankings), (MEASURE,))[MEASURE]
    return np.array(raw, dtype=np.float32), values


def peer_ranking(folder: Path) -> Callable[[str, list[str]], Any]:
    """Return sentence-transformers' own scoring in float32; mini's file is in float16."""
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    return lambda query, texts: model.predict(
        [(query, text) for text in texts], show_progress_bar=False
    )


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    questions: Annotated[int, typer.Option(help="Sample of each set.")] = 250,
    turns: Annotated[int, typer.Option(help="Turns of the speed measurement.")] = 20,
    only: Annotated[list[str], typer.Option(help="The sets; the first gives the passages.")] = SETS,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
    *,
    add: Annotated[bool, typer.Option(help="Keep the speed and what other sets gave.")] = False,
) -> None:
    """Measure speed and quality, and write the figures as JSON."""
    rerankers = {name: Reranker(MINI, **settings).warm_up() for name, settings in ours().items()}
    found = {name: first_stage(sets / name, questions) for name in only}
    if add:
        results: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    else:
        rankers = {PEER: peer_ranking(cross_encoder_folder())}
        rankers |= {name: reranker.rank for name, reranker in rerankers.items()}
        results = {
            "model": MINI,
            "peer": PEER,
            "environment": environment(),
            "turns": turns,
            "passages": only[0],
            "speed": measure_speed(rankers, found[only[0]], turns),
            "sets": {},
        }
    exact = rerankers[EXACT]
    rounding = {name: one for name, one in rerankers.items() if "float32" not in name}
    for name, one in found.items():
        measured = measure_quality(one, exact, rounding)
        results["sets"][name] = {**measured, "environment": environment()}
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
