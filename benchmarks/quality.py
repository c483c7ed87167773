"""What reranking gains: ``python -m benchmarks.quality ../shared/data``.

For each retrieval set in BEIR layout: the bi-encoder alone, and its best 50 reranked by the
embedded cross-encoder, over a random sample of questions.
"""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import typer

from benchmarks.environment import ROOT, environment
from benchmarks.found import DEPTH, SEED, first_stage
from rerank_plugins import Reranker
from rerank_plugins.core.config import MINI
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "quality.json"
SETS: Final = ("squad-dev", "nq-gold", "stackfaq", "vaswani")
MEASURES: Final = ("nDCG@10", "RR@10")


def measure(folder: Path, questions: int, reranker: Reranker) -> dict[str, Any]:
    """Measure both stages on one set.

    Args:
        folder: The set.
        questions: Size of the sample; the whole set if it has fewer.
        reranker: The second stage.

    Returns:
        Means of each measure, the paired difference with its 95% interval, and counts.
    """
    found = first_stage(folder, questions)
    data, asked = found.data, found.asked
    start = perf_counter()
    rankings = reranker.rank_many(found.requests)
    seconds = perf_counter() - start
    first = {
        one: [data.passages[at].id for at in row]
        for one, row in zip(asked, found.best, strict=True)
    }
    second = found.run(rankings)
    before, after = (per_query(data.qrels, run, MEASURES) for run in (first, second))
    gains = {name: paired_bootstrap(before[name], after[name]) for name in MEASURES}
    return {
        "documents": len(data.passages),
        "questions": len(asked),
        "bi_encoder": {name: float(before[name].mean()) for name in MEASURES},
        "two_stages": {name: float(after[name].mean()) for name in MEASURES},
        "gain": {name: {**gain._asdict(), "verdict": gain.verdict} for name, gain in gains.items()},
        "pairs": sum(ranking.stats.pairs for ranking in rankings),
        "rerank_seconds": seconds,
    }


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    questions: Annotated[int, typer.Option(help="Sample of each set.")] = 300,
    model: Annotated[str, typer.Option(help="The cross-encoder.")] = MINI,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure all sets and write the figures as JSON."""
    reranker = Reranker(model).warm_up()
    results: dict[str, Any] = {
        "model": model,
        "dtype": reranker.engine.backend.identity.dtype,
        "depth": DEPTH,
        "seed": SEED,
        "environment": environment(),
        "sets": {},
    }
    for name in SETS:
        results["sets"][name] = measure(sets / name, questions, reranker)
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
