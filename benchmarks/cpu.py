"""What OpenVINO gains on a CPU, and what int8 costs: ``python -m benchmarks.cpu ../shared/data``.

Speed: one question and its 10 or 100 passages, ranked in turn by sentence-transformers'
CrossEncoder, by the torch backend and by OpenVINO, all with the same weights; ratios are taken
within a turn, so that a machine that slows down slows all of them. Quality: nDCG@10 over the
same candidates in float32 and in int8.
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
from sentence_transformers import CrossEncoder

from benchmarks.environment import ROOT, environment
from benchmarks.found import Found, first_stage
from rerank_plugins import Reranker
from rerank_plugins.backends._mini import cross_encoder_folder
from rerank_plugins.core.config import MINI
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "cpu.json"
SETS: Final = ["nq-gold", "squad-dev", "stackfaq", "vaswani"]
COUNTS: Final = (10, 100)
MEASURE: Final = "nDCG@10"
_SHARES: Final = (50, 5, 95)
PEER: Final = "sentence-transformers"
OURS: Final[dict[str, dict[str, Any]]] = {
    "torch float32": {"backend": "torch", "dtype": "float32"},
    "openvino float32": {"backend": "openvino", "dtype": "float32"},
    "openvino int8": {"backend": "openvino", "dtype": "int8"},
}


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


def measure_quality(found: Found, exact: Reranker, quantised: Reranker) -> dict[str, Any]:
    """Compare two rankers over the same candidates.

    Returns:
        nDCG@10 of both, the paired difference with its 95% interval, the correlation of their
        raw scores and the largest difference of two.
    """
    runs, raw = [], []
    for reranker in (exact, quantised):
        rankings = list(reranker.rank_many(found.requests))
        runs.append(found.run(rankings))
        raw.append(
            np.concatenate(
                [
                    [one.raw_score for one in sorted(ranking, key=lambda one: one.index)]
                    for ranking in rankings
                ]
            )
        )
    before, after = (per_query(found.data.qrels, run, (MEASURE,))[MEASURE] for run in runs)
    change = paired_bootstrap(before, after)
    return {
        "questions": len(found.requests),
        "pairs": len(raw[0]),
        "float32": float(before.mean()),
        "int8": float(after.mean()),
        "change": {**change._asdict(), "verdict": change.verdict},
        "correlation": float(np.corrcoef(raw[0], raw[1])[0, 1]),
        "largest_difference": float(np.abs(raw[0] - raw[1]).max()),
    }


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
) -> None:
    """Measure speed and quality, and write the figures as JSON."""
    rerankers = {name: Reranker(MINI, **settings).warm_up() for name, settings in OURS.items()}
    found = {name: first_stage(sets / name, questions) for name in only}
    rankers = {PEER: peer_ranking(cross_encoder_folder())}
    rankers |= {name: reranker.rank for name, reranker in rerankers.items()}
    results: dict[str, Any] = {
        "model": MINI,
        "peer": PEER,
        "environment": environment(),
        "turns": turns,
        "passages": only[0],
        "speed": measure_speed(rankers, found[only[0]], turns),
        "sets": {},
    }
    for name, one in found.items():
        results["sets"][name] = measure_quality(
            one, rerankers["torch float32"], rerankers["openvino int8"]
        )
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
