"""What a time budget buys: ``python -m benchmarks.deadline ../shared/data``.

For each retrieval set in BEIR layout: the bi-encoder's best 1000, reranked by the embedded
cross-encoder within budgets of 50 to 1000 ms and without one. How late the answers are, how
many documents were scored, and how good the order is.
"""

from __future__ import annotations

import gc
import json
import random
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer

from benchmarks.environment import ROOT, environment
from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.config import MINI
from rerank_plugins.evaluation.beir import read_beir
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "deadline.json"
SETS: Final = ("squad-dev", "nq-gold", "vaswani")
BUDGETS_MS: Final = (50, 100, 200, 500, 1_000)
DEPTH: Final = 1_000
MEASURE: Final = "nDCG@10"
SEED: Final = 13
WARM_UP: Final = 5
BEST: Final = 10


class Answer(NamedTuple):
    """What is kept of a ranking: a pile of whole ones would keep the garbage collector busy."""

    best: list[int]
    scored: int
    took_ms: float


def measure(folder: Path, questions: int, reranker: Reranker, *, unlimited: bool) -> dict[str, Any]:
    """Measure all budgets on one set; each question goes through all of them in turn.

    Args:
        folder: The set.
        questions: Size of the sample.
        reranker: The second stage.
        unlimited: Whether to score all candidates as well, which takes seconds a question.

    Returns:
        The first stage's quality, and what each budget gave.
    """
    data = read_beir(folder)
    asked = random.Random(SEED).sample(sorted(data.qrels), questions)  # noqa: S311  (no secret)
    encoder = BiEncoder()
    index = encoder.encode_documents([passage.content for passage in data.passages])
    cosines = encoder.encode_queries([data.queries[one] for one in asked]) @ index.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
    texts = [[data.passages[at].content for at in row] for row in best]
    ids = [passage.id for passage in data.passages]
    first = {one: [ids[at] for at in row] for one, row in zip(asked, best, strict=True)}
    for one, documents in zip(asked[:WARM_UP], texts, strict=False):
        reranker.rank(data.queries[one], documents, deadline_ms=BUDGETS_MS[-1])
    query = data.queries[asked[0]]
    alone = [_timed(reranker, query, [documents[0]], None).took_ms for documents in texts]
    gc.collect()
    gc.freeze()  # as the documentation advises
    budgets: list[int | None] = [*BUDGETS_MS, *([None] if unlimited else [])]
    answers: dict[int | None, list[Answer]] = {budget: [] for budget in budgets}
    for one, documents in zip(asked, texts, strict=True):
        for budget in budgets:
            answers[budget].append(_timed(reranker, data.queries[one], documents, budget))
    before = per_query(data.qrels, first, (MEASURE,))[MEASURE]
    one_pair_ms = float(np.median(alone))
    found: dict[str, Any] = {
        "documents": len(ids),
        "questions": len(asked),
        "candidates": min(DEPTH, len(ids)),
        "one_pair_ms": one_pair_ms,
        "first_stage": float(before.mean()),
        "budgets": [],
    }
    for budget, given in answers.items():
        run = {
            one: [ids[row[at]] for at in answer.best]
            for one, row, answer in zip(asked, best, given, strict=True)
        }
        after = per_query(data.qrels, run, (MEASURE,))[MEASURE]
        found["budgets"].append(
            {
                "budget_ms": budget,
                "scored": float(np.mean([answer.scored for answer in given])),
                "scored_least": min(answer.scored for answer in given),
                MEASURE: float(after.mean()),
                "gain": paired_bootstrap(before, after)._asdict(),
                **_times(np.array([answer.took_ms for answer in given]), budget, one_pair_ms),
            }
        )
    return found


def _timed(reranker: Reranker, query: str, documents: list[str], budget_ms: int | None) -> Answer:
    start = perf_counter()
    ranking = reranker.rank(query, documents, deadline_ms=budget_ms)
    took_ms = 1e3 * (perf_counter() - start)
    return Answer([one.index for one in ranking[:BEST]], ranking.stats.scored, took_ms)


def _times(taken: Any, budget: int | None, one_pair_ms: float) -> dict[str, Any]:  # noqa: ANN401
    """Return how long calls took, and how late they were; negative is early."""
    times = {"took_ms": {"p50": float(np.median(taken)), "p95": float(np.quantile(taken, 0.95))}}
    if budget is None:
        return times
    late = taken - budget
    p95 = float(np.quantile(late, 0.95))
    return times | {
        "late_ms": {"p50": float(np.median(late)), "p95": p95, "max": float(late.max())},
        "late_p95_share": p95 / budget,
        "under_15_percent": p95 < 0.15 * budget,
        "under_15_percent_and_one_pair": p95 < 0.15 * budget + one_pair_ms,
    }


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    questions: Annotated[int, typer.Option(help="Sample of each set.")] = 60,
    model: Annotated[str, typer.Option(help="The cross-encoder.")] = MINI,
    unlimited: Annotated[bool, typer.Option(help="Also score all.")] = True,  # noqa: FBT002
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
        found = measure(sets / name, questions, reranker, unlimited=unlimited)
        results["sets"][name] = found
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for row in found["budgets"]:
            typer.echo(f"{name} {json.dumps(row)}")


if __name__ == "__main__":
    typer.run(main)
