"""A plan for 1,000 documents and 100 questions: how long it takes, and whether its times hold.

``python -m benchmarks.plan FOLDER_OF_A_SET``, on a machine that does nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.environment import ROOT, environment
from rerank_plugins import BiEncoder
from rerank_plugins.config import MINI
from rerank_plugins.evaluation import Plan, RetrievalSet, plan, read_beir
from rerank_plugins.evaluation.candidates import Pool

RESULTS: Final = ROOT / "benchmarks" / "results" / "plan.json"
PICTURE: Final = ROOT / "docs" / "images" / "plan.svg"
PROMISED: Final = 0.2
DEPTHS: Final = (5, 10, 20, 50, 100)
SEED: Final = 11


def part_of(data: RetrievalSet, documents: int, questions: int) -> RetrievalSet:
    """Return random questions, their judged passages, and other passages up to a number."""
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    asked = sorted(rng.sample(sorted(data.qrels), min(questions, len(data.qrels))))
    judged = {name for one in asked for name in data.qrels[one]}
    others = [one.id for one in data.passages if one.id not in judged]
    kept = judged | set(rng.sample(others, min(len(others), max(0, documents - len(judged)))))
    return RetrievalSet(
        tuple(one for one in data.passages if one.id in kept),
        {one: data.queries[one] for one in asked},
        {one: data.qrels[one] for one in asked},
    )


def predicted_and_measured(
    data: RetrievalSet, made: Plan, depths: Sequence[int], questions: int
) -> list[dict[str, Any]]:
    """Answer questions anew with options of a plan, and compare the times with its own.

    Options take turns, question by question, so that noise reaches all of them alike.
    """
    chosen = [
        one for one in made.options if len(one.recipe.steps) == 1 and one.recipe.depth in depths
    ]
    pool = Pool(data, BiEncoder(made.options[0].recipe.encoder), 1)
    rankers = [one.recipe.steps[0].setup.reranker().warm_up() for one in chosen]
    seconds: list[list[float]] = [[] for _ in chosen]
    for row in np.random.default_rng(SEED).permutation(len(pool.questions))[:questions].tolist():
        for one, ranker, own in zip(chosen, rankers, seconds, strict=True):
            own.append(pool.answer(row, ranker, one.recipe.depth))
    return [
        {
            "option": str(one.recipe),
            "predicted_p50_ms": one.p50_ms,
            "measured_p50_ms": float(np.median(own)) * 1_000,
            "ratio": one.p50_ms / (float(np.median(own)) * 1_000),
            "under_predicted_p95": float(np.mean(np.array(own) * 1_000 <= one.p95_ms)),
        }
        for one, own in zip(chosen, seconds, strict=True)
    ]


def main(
    folder: Annotated[Path, typer.Argument(help="A set in BEIR's layout.")],
    *,
    budget_ms: Annotated[float, typer.Option(help="The budget.")] = 500.0,
    documents: Annotated[int, typer.Option(help="How many documents.")] = 1_000,
    questions: Annotated[int, typer.Option(help="How many questions.")] = 100,
    model: Annotated[str, typer.Option(help="The cross-encoder.")] = MINI,
    time_limit: Annotated[float, typer.Option(help="Seconds for scoring.")] = 150.0,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
    picture: Annotated[Path, typer.Option(help="Where the plot goes.")] = PICTURE,
) -> None:
    """Plan, check the plan's times, and write both as JSON."""
    data = part_of(read_beir(folder), documents, questions)
    start = perf_counter()
    made = plan(data, budget_ms, models=[model], time_limit_s=time_limit)
    seconds = perf_counter() - start
    checked = predicted_and_measured(data, made, DEPTHS, min(questions, 50))
    worst = max((abs(one["ratio"] - 1) for one in checked), default=0.0)
    results = {
        "set": folder.name,
        "seconds": seconds,
        "worst_error": worst,
        "as_promised": worst <= PROMISED and seconds < 300,  # noqa: PLR2004
        "latency": checked,
        "plan": {**made.to_dict(), "environment": None},
        "environment": environment(),
    }
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    made.plot(picture)
    typer.echo(made.summary)
    typer.echo(f"planned in {seconds:.0f} s; predicted times are off by {worst:.0%} at most")


if __name__ == "__main__":
    typer.run(main)
