"""What a time budget buys: ``python -m benchmarks.deadline ../shared/data``.

A first stage's best 1000, reranked by the embedded cross-encoder within budgets of 50 to 1000 ms:
how late the answers are, how many documents were scored, and how good the order is. A budget
can only raise the quality where the model is better than the first stage at what it is
given first, so the settings name both: the set, what found the candidates, and whether both
stages' scores are joined.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.environment import ROOT, environment
from benchmarks.first_stage import FirstStage, Pool, pool_of
from rerank_plugins import Reranker
from rerank_plugins.config import MINI, Fusion
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "deadline.json"
BUDGETS_MS: Final = (50, 100, 200, 500, 1_000)
DEPTH: Final = 1_000
MEASURE: Final = "nDCG@10"
SEED: Final = 11
WARM_UP: Final = 5
BEST: Final = 10


class Setting(NamedTuple):
    """What is reranked, and how."""

    data: str
    first_stage: FirstStage
    fusion: Fusion

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return " ".join(self)


SETTINGS: Final = (
    Setting("squad-dev", "bi-encoder", "none"),
    Setting("vaswani", "bm25", "weighted"),
    Setting("nq-gold", "bi-encoder", "none"),
)


class Answer(NamedTuple):
    """What is kept of a ranking: a pile of whole ones would keep the garbage collector busy."""

    best: list[int]
    scored: int
    took_ms: float


def measure(pool: Pool, reranker: Reranker) -> dict[str, Any]:
    """Measure all budgets; each question goes through all of them in turn.

    Args:
        pool: The questions and their candidates.
        reranker: The second stage, with or without a fusion.

    Returns:
        The first stage's quality, and what each budget gave.
    """
    for number in range(min(WARM_UP, len(pool.queries))):
        _timed(reranker, pool, number, BUDGETS_MS[-1])
    alone = [_one_pair(reranker, pool, number) for number in range(len(pool.queries))]
    gc.collect()
    gc.freeze()  # as the documentation advises
    answers: dict[int, list[Answer]] = {budget: [] for budget in BUDGETS_MS}
    for number in range(len(pool.queries)):
        for budget in BUDGETS_MS:
            answers[budget].append(_timed(reranker, pool, number, budget))
    gc.unfreeze()
    before = _values(pool, [list(range(BEST))] * len(pool.queries))
    one_pair_ms = float(np.median(alone))
    budgets = []
    for budget, given in answers.items():
        after = _values(pool, [one.best for one in given])
        budgets.append(
            {
                "budget_ms": budget,
                "scored": float(np.mean([one.scored for one in given])),
                "scored_least": min(one.scored for one in given),
                MEASURE: float(after.mean()),
                "gain": paired_bootstrap(before, after)._asdict(),
                **_times(np.array([one.took_ms for one in given]), budget, one_pair_ms),
            }
        )
    return {
        "documents": pool.corpus,
        "questions": len(pool.queries),
        "candidates": len(pool.documents[0]),
        "one_pair_ms": one_pair_ms,
        "first_stage_value": float(before.mean()),
        "budgets": budgets,
    }


def _timed(reranker: Reranker, pool: Pool, number: int, budget_ms: int) -> Answer:
    query, documents = pool.queries[number], pool.documents[number]
    scores = pool.scores[number].tolist()
    start = perf_counter()
    ranking = reranker.rank(query, documents, deadline_ms=budget_ms, first_stage=scores)
    took_ms = 1e3 * (perf_counter() - start)
    return Answer([one.index for one in ranking[:BEST]], ranking.stats.scored, took_ms)


def _one_pair(reranker: Reranker, pool: Pool, number: int) -> float:
    start = perf_counter()
    reranker.rank(pool.queries[number], pool.documents[number][:1])
    return 1e3 * (perf_counter() - start)


def _values(pool: Pool, orders: list[list[int]]) -> NDArray[np.float64]:
    run = {
        one: [ids[at] for at in order]
        for one, ids, order in zip(pool.asked, pool.ids, orders, strict=True)
    }
    return per_query(pool.qrels, run, (MEASURE,))[MEASURE]


def _times(taken: NDArray[np.float64], budget: int, one_pair_ms: float) -> dict[str, Any]:
    """Return how long calls took, and how late they were; negative is early."""
    late = taken - budget
    p95 = float(np.quantile(late, 0.95))
    return {
        "took_ms": {"p50": float(np.median(taken)), "p95": float(np.quantile(taken, 0.95))},
        "late_ms": {"p50": float(np.median(late)), "p95": p95, "max": float(late.max())},
        "late_p95_share": p95 / budget,
        "under_15_percent": p95 < 0.15 * budget,
        "under_15_percent_and_one_pair": p95 < 0.15 * budget + one_pair_ms,
    }


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    *,
    questions: Annotated[int, typer.Option(help="Sample of each set.")] = 36,
    model: Annotated[str, typer.Option(help="The cross-encoder.")] = MINI,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure all settings and write the figures as JSON."""
    results: dict[str, Any] = {
        "model": model,
        "dtype": Reranker(model).warm_up().engine.identity.dtype,
        "depth": DEPTH,
        "seed": SEED,
        "environment": environment(),
        "settings": {},
    }
    for setting in SETTINGS:
        pool = pool_of(sets / setting.data, questions, SEED, DEPTH, setting.first_stage)
        found = measure(pool, Reranker(model, fusion=setting.fusion))
        results["settings"][setting.name] = {**setting._asdict(), **found}
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for row in found["budgets"]:
            typer.echo(f"{setting.name} {json.dumps(row)}")


if __name__ == "__main__":
    typer.run(main)
