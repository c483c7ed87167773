"""Retrieval quality and latency of eight systems.

Every pair is scored once and serves all depths and fusions; latency is measured separately, on
whole searches, with the systems interleaved. An interrupted run continues: pair scores and times
are stored in the work folder.
"""

from __future__ import annotations

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
    digest,
    pair_scores,
    rank_from_scores,
    read_array,
    sample_queries,
    save_array,
)
from rerank_plugins import Reranker
from rerank_plugins.config import MINI
from rerank_plugins.evaluation import RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import bootstrapped_mean, paired_bootstrap, per_query

MEASURES: Final = {"nDCG@10": "nDCG@10", "RR@10": "MRR@10", "R@50": "recall@50"}


class Trial:
    """A retrieval set, a sample of its queries, and the scores of the first stages."""

    def __init__(self, data: RetrievalSet, queries: int, seed: int = SEED) -> None:
        """Search the set.

        Args:
            data: The set.
            queries: Size of the sample; 0, or more than there are, takes all.
            seed: Seed of the sample.
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
        queries: Size of the sample of each set; 0 takes all.
        timed: Queries whose latency is measured.
    """
    rerankers = {model: Reranker(MINI, **settings).warm_up() for model, settings in MODELS.items()}
    for dataset in SETS:
        trial = Trial(read_beir(sets / dataset), queries)
        # Latency first, before a long load heats the machine.
        times = trial.time(timed, work)
        raw = {model: trial.score(model, reranker, work) for model, reranker in rerankers.items()}
        yield list(trial.rows(dataset, raw, times))
