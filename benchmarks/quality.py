"""Retrieval quality and latency of eight systems, and what a plan predicts.

Every pair is scored once and serves all depths and fusions; latency is measured separately, on
whole searches, with the systems interleaved. An interrupted run continues: pair scores and times
are stored in the work folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row, commit, make_rows
from benchmarks.retrieval import (
    BASELINE,
    MODELS,
    SEED,
    SETS,
    SYSTEMS,
    Corpus,
    pair_scores,
    rank_from_scores,
    sample_queries,
)
from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.config import MINI
from rerank_plugins.evaluation import Plan, RetrievalSet, plan, read_beir
from rerank_plugins.evaluation.metrics import bootstrapped_mean, paired_bootstrap, per_query
from rerank_plugins.evaluation.pools import Pool, digest, read_array, save_array

MEASURES: Final = {"nDCG@10": "nDCG@10", "RR@10": "MRR@10", "R@50": "recall@50"}
PLAN_SET: Final = "squad-dev"
PLAN_DOCUMENTS: Final = 1_000
PLAN_BUDGET_MS: Final = 500.0
PLAN_DEPTHS: Final = (5, 10, 20, 50, 100)


class Trial:
    """A retrieval set, a sample of its queries, and the scores of the first stages."""

    def __init__(self, data: RetrievalSet, queries: int, seed: int = SEED) -> None:
        """Search the set.

        Args:
            data: The set.
            queries: Size of the sample; 0, or more than there are, takes all.
            seed: Of the sample.
        """
        self.data = data
        self.query_ids = sample_queries(data, queries or len(data.qrels), seed)
        self.queries = [data.queries[query] for query in self.query_ids]
        self.corpus = Corpus([passage.content for passage in data.passages])
        stages = dict.fromkeys(system.first_stage for system in SYSTEMS.values())
        self.scores = {stage: self.corpus.search(stage, self.queries) for stage in stages}
        passages = (part for passage in data.passages for part in (passage.id, passage.content))
        self.key = digest(*self.query_ids, *passages)

    def candidates(self, model: str, row: int) -> NDArray[np.intp]:
        """Return the passages that some system reranks with a model for a query."""
        depths = dict.fromkeys(self.scores, 0)
        for system in SYSTEMS.values():
            if system.model == model:
                depths[system.first_stage] = max(depths[system.first_stage], system.depth)
        best = [
            np.argsort(-self.scores[stage][row], kind="stable")[:depth]
            for stage, depth in depths.items()
        ]
        return np.unique(np.concatenate(best))

    def score(self, model: str, reranker: Reranker, folder: Path) -> NDArray[np.float32]:
        """Score the candidates of a model once; see :func:`pair_scores`."""
        file = folder / f"scores-{self.key}-{digest(repr(reranker.engine.identity))}.npy"
        wanted = [self.candidates(model, row) for row in range(len(self.query_ids))]
        return pair_scores(reranker, self.queries, self.corpus.texts, wanted, file)

    def time(self, queries: int, folder: Path) -> NDArray[np.float64]:
        """Return the seconds of whole searches, shape ``(queries, systems)``."""
        file = folder / f"times-{self.key}-{digest(commit(), *SYSTEMS)}.npy"
        stored = read_array(file)
        timed = self.queries[:queries]
        times = np.full((len(timed), len(SYSTEMS)), np.nan)
        if stored is not None:
            times[: len(stored)] = stored[: len(timed)]
        missing = np.flatnonzero(np.isnan(times).any(axis=1))
        if len(missing):
            self._time_systems(self.queries[-1])  # warm up
        for row in missing:
            times[row] = self._time_systems(timed[row])
            save_array(file, times)
        return times

    def _time_systems(self, query: str) -> list[float]:
        seconds = []
        for system in SYSTEMS.values():
            start = perf_counter()
            self.corpus.rank(system, query)
            seconds.append(perf_counter() - start)
        return seconds

    def rows(
        self, dataset: str, raw: Mapping[str, NDArray[np.float32]], times: NDArray[np.float64]
    ) -> Iterator[Row]:
        """Yield the figures of every system."""
        values = {}
        for name, system in SYSTEMS.items():
            run = {}
            for row, query in enumerate(self.query_ids):
                scores = {model: matrix[row] for model, matrix in raw.items()}
                order = rank_from_scores(system, self.scores[system.first_stage][row], scores)
                run[query] = [self.data.passages[position].id for position in order]
            values[name] = per_query(self.data.qrels, run, tuple(MEASURES))
        sizes = {"documents": len(self.corpus.texts), "questions": len(self.query_ids)}
        yield from make_rows("quality", "", dataset, {**sizes, "timed_questions": len(times)})
        for column, (name, measured) in enumerate(values.items()):
            p50, p95 = np.percentile(times[:, column] * 1_000, (50, 95))
            metrics: dict[str, Any] = {
                title: bootstrapped_mean(measured[measure]) for measure, title in MEASURES.items()
            }
            gain = paired_bootstrap(values[BASELINE]["nDCG@10"], measured["nDCG@10"])
            latency = {"p50_ms": float(p50), "p95_ms": float(p95)}
            yield from make_rows("quality", name, dataset, {**metrics, "gain": gain, **latency})


def measure_quality(
    sets: Path, work: Path, *, queries: int = 150, timed: int = 15
) -> Iterator[list[Row]]:
    """Yield the figures of all systems, set by set.

    Args:
        sets: Folder of the sets.
        work: Folder that stores scores and times.
        queries: Sample of each set; 0 takes all.
        timed: Queries whose latency is measured.
    """
    rerankers = {model: Reranker(MINI, **settings).warm_up() for model, settings in MODELS.items()}
    for dataset in SETS:
        trial = Trial(read_beir(sets / dataset), queries)
        # Latency first, before a long load heats the machine.
        times = trial.time(timed, work)
        raw = {model: trial.score(model, one, work) for model, one in rerankers.items()}
        yield list(trial.rows(dataset, raw, times))


def subset(data: RetrievalSet, documents: int, queries: int) -> RetrievalSet:
    """Return random queries, their judged passages, and other passages up to a number."""
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    chosen = sorted(rng.sample(sorted(data.qrels), min(queries, len(data.qrels))))
    judged = {document for query in chosen for document in data.qrels[query]}
    others = [passage.id for passage in data.passages if passage.id not in judged]
    more = min(len(others), max(0, documents - len(judged)))
    kept = judged | set(rng.sample(others, more))
    return RetrievalSet(
        tuple(passage for passage in data.passages if passage.id in kept),
        {query: data.queries[query] for query in chosen},
        {query: data.qrels[query] for query in chosen},
    )


def predicted_and_measured(
    data: RetrievalSet, made: Plan, depths: tuple[int, ...], queries: int
) -> dict[str, dict[str, float]]:
    """Compare the latencies that a plan predicts with measured ones.

    The options are interleaved, query by query, so that noise affects all of them alike.

    Returns:
        The metrics by option.
    """
    options = [
        option
        for option in made.options
        if len(option.recipe.steps) == 1 and option.recipe.depth in depths
    ]
    pool = Pool(data, BiEncoder(made.options[0].recipe.encoder), 1)
    rankers = [option.recipe.steps[0].setup.reranker().warm_up() for option in options]
    seconds: list[list[float]] = [[] for _ in options]
    order = np.random.default_rng(SEED).permutation(len(pool.questions))[:queries].tolist()
    for row in order:
        for option, ranker, times in zip(options, rankers, seconds, strict=True):
            times.append(pool.answer(row, ranker, option.recipe.depth))
    metrics = {}
    for option, times in zip(options, seconds, strict=True):
        measured = float(np.median(times)) * 1_000
        metrics[str(option.recipe)] = {
            "predicted_p50_ms": option.p50_ms,
            "measured_p50_ms": measured,
            "ratio": option.p50_ms / measured,
            "under_predicted_p95": float(np.mean(np.array(times) * 1_000 <= option.p95_ms)),
        }
    return metrics


def measure_plan(sets: Path, *, queries: int = 100, model: str = MINI) -> Iterator[list[Row]]:
    """Yield how long a plan takes, and how well it predicts latencies."""
    data = subset(read_beir(sets / PLAN_SET), PLAN_DOCUMENTS, queries)
    start = perf_counter()
    made = plan(data, PLAN_BUDGET_MS, models=[model], time_limit_s=150.0)
    seconds = perf_counter() - start
    options = predicted_and_measured(data, made, PLAN_DEPTHS, min(queries, 50))
    worst = max((abs(metrics["ratio"] - 1) for metrics in options.values()), default=0.0)
    rows = make_rows("plan", "", PLAN_SET, {"planning_s": seconds, "worst_error": worst})
    for name, metrics in options.items():
        rows += make_rows("plan", name, PLAN_SET, metrics)
    yield rows
