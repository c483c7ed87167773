"""What reranking gains: ``python -m benchmarks.quality ../shared/data``.

For each retrieval set in BEIR layout: the bi-encoder alone, and its best 50 reranked by the
embedded cross-encoder, over a random sample of questions.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.environment import ROOT, environment
from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.config import MINI
from rerank_plugins.evaluation.beir import read_beir
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "quality.json"
SETS: Final = ("squad-dev", "nq-gold", "stackfaq", "vaswani")
MEASURES: Final = ("nDCG@10", "RR@10")
DEPTH: Final = 50
SEED: Final = 11


def measure(folder: Path, questions: int, reranker: Reranker) -> dict[str, Any]:
    """Measure both stages on one set.

    Args:
        folder: The set.
        questions: Size of the sample; the whole set if it has fewer.
        reranker: The second stage.

    Returns:
        Means of each measure, the paired difference with its 95% interval, and counts.
    """
    data = read_beir(folder)
    asked = sorted(data.qrels)
    if len(asked) > questions:
        asked = random.Random(SEED).sample(asked, questions)  # noqa: S311  (no secret)
    encoder = BiEncoder()
    index = encoder.encode_documents([passage.content for passage in data.passages])
    cosines = encoder.encode_queries([data.queries[one] for one in asked]) @ index.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
    start = perf_counter()
    rankings = reranker.rank_many(
        (data.queries[one], [data.passages[at].content for at in row])
        for one, row in zip(asked, best, strict=True)
    )
    seconds = perf_counter() - start
    ids = [passage.id for passage in data.passages]
    first = {one: [ids[at] for at in row] for one, row in zip(asked, best, strict=True)}
    second = {
        one: [ids[row[document.index]] for document in ranking]
        for one, row, ranking in zip(asked, best, rankings, strict=True)
    }
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
