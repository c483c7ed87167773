"""Step ``evaluate``: quality on retrieval sets that are not trained on.

The metrics are nDCG@10 and MRR@10 with 95% intervals, and paired permutation tests, whose p-values
are corrected for all comparisons of a set (Holm). Scores are cached in a folder, so a repeated
evaluation of the same questions computes no score twice.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.common import describe_environment
from benchmarks.retrieval import (
    SEED,
    SETS,
    DenseIndex,
    FirstStage,
    SparseIndex,
    System,
    pair_scores,
    rank_from_scores,
    sample_queries,
)
from rerank_plugins import Reranker
from rerank_plugins.evaluation.candidates import digest, read_array, save_array
from rerank_plugins.evaluation.datasets import RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import (
    Scores,
    bootstrapped_mean,
    holm,
    paired_bootstrap,
    per_query,
    permutation_p,
)
from rerank_plugins.evaluation.systems import nearest

MEASURES: Final = ("nDCG@10", "RR@10")
_BM25, _DENSE, _DENSE_OVER_BM25 = "BM25", "bi-encoder", "bi-encoder over BM25's best 100"
_OVER_DENSE, _OVER_BM25, _FUSED = "over the bi-encoder's best 50", "over BM25's best 100", "fused"


class QuestionSample:
    """A sample of the questions of a retrieval set, with the scores of both retrievers.

    Attributes:
        data: The retrieval set.
        ids: Ids of the questions.
    """

    def __init__(self, data: RetrievalSet, count: int, cache: Path) -> None:
        """Run both retrievers, or read their cached scores.

        Args:
            data: The retrieval set.
            count: Number of questions; 0 is all.
            cache: Folder of cached scores.
        """
        self.data = data
        self.ids = sample_queries(data, count or len(data.qrels), SEED)
        self._queries = [data.queries[question] for question in self.ids]
        self._texts = [passage.content for passage in data.passages]
        self._cache = cache
        self._key = digest(*self.ids, *(passage.id for passage in data.passages), *self._texts)
        self._retrieval_scores = {name: self._retrieve(name) for name in ("bm25", "bi-encoder")}

    def _retrieve(self, retriever: FirstStage) -> NDArray[np.float64]:
        file = self._cache / f"{retriever}-{self._key}.npy"
        scores = read_array(file)
        if scores is None:
            bm25 = retriever == "bm25"
            index = SparseIndex(self._texts) if bm25 else DenseIndex(self._texts)
            scores = index(self._queries)
            save_array(file, scores)
        return scores

    def scores(self, reranker: Reranker, *, quick: bool) -> NDArray[np.float32]:
        """Score the best passages of both retrievers, or of the bi-encoder only.

        Returns:
            Raw scores, NaN for other passages, shape ``(questions, passages)``.
        """
        identity = reranker.engine.backend.identity
        file = self._cache / f"scores-{self._key}-{digest(repr(identity))}.npy"
        retrieved = (self._retrieval_scores[name] for name in ("bm25", "bi-encoder"))
        candidates = [
            np.union1d(nearest(sparse, 0 if quick else 100), nearest(dense, 50))
            for sparse, dense in zip(*retrieved, strict=True)
        ]
        return pair_scores(reranker, self._queries, self._texts, candidates, file)

    def metrics(
        self, system: System, scores: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, Scores]:
        """Measure a system.

        Args:
            system: The system.
            scores: Raw scores by model; the bi-encoder can be the model, too.
        """
        first_stage = self._retrieval_scores[system.first_stage]
        rankings = {}
        for row, question in enumerate(self.ids):
            raw = {name: values[row] for name, values in scores.items()}
            raw[_DENSE] = self._retrieval_scores["bi-encoder"][row].astype(np.float32)
            order = rank_from_scores(system, first_stage[row], raw)
            rankings[question] = [self.data.passages[passage].id for passage in order]
        return per_query(self.data.qrels, rankings, MEASURES)


def systems_of(models: Iterable[str], *, quick: bool = False) -> dict[str, System]:
    """Return the systems to compare: retrievers, and each model over their results.

    Args:
        models: Names of the models.
        quick: Whether to leave out the models over BM25's results.
    """
    systems = {
        _BM25: System("bm25", 100),
        _DENSE: System("bi-encoder", 50),
        _DENSE_OVER_BM25: System("bm25", 100, _DENSE),
    }
    for name in models:
        systems[f"{name} {_OVER_DENSE}"] = System("bi-encoder", 50, name)
        systems[f"{name} {_FUSED}"] = System("bi-encoder", 50, name, fused=True)
        if not quick:
            systems[f"{name} {_OVER_BM25}"] = System("bm25", 100, name)
    return systems


def evaluate(
    rerankers: Mapping[str, Reranker],
    sets: Path,
    cache: Path,
    questions: int,
    *,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure models on all retrieval sets.

    Args:
        rerankers: Models by name; the first one is the baseline of the others.
        sets: Folder of the retrieval sets in BEIR layout.
        cache: Folder of cached scores.
        questions: Number of questions per set; 0 is all.
        quick: Whether to leave out the models over BM25's results.
    """
    result: dict[str, Any] = {
        "dtypes": {name: model.engine.backend.identity.dtype for name, model in rerankers.items()},
        "seed": SEED,
        "environment": describe_environment(),
        "sets": {},
    }
    for name in tqdm(SETS, desc="evaluate", unit="set", disable=None):
        question_sample = QuestionSample(read_beir(sets / name), questions, cache)
        result["sets"][name] = _evaluate_set(question_sample, rerankers, quick=quick)
    return result


def _evaluate_set(
    questions: QuestionSample, rerankers: Mapping[str, Reranker], *, quick: bool
) -> dict[str, Any]:
    scores = {name: questions.scores(model, quick=quick) for name, model in rerankers.items()}
    systems = systems_of(rerankers, quick=quick)
    metrics = {name: questions.metrics(system, scores) for name, system in systems.items()}
    pairs = _comparisons(list(rerankers), systems)
    main = {name: values[MEASURES[0]] for name, values in metrics.items()}
    p_values = holm([permutation_p(main[first], main[second]) for first, second in pairs])
    return {
        "documents": len(questions.data.passages),
        "questions": len(questions.ids),
        "systems": {
            name: {measure: bootstrapped_mean(part)._asdict() for measure, part in values.items()}
            for name, values in metrics.items()
        },
        "comparisons": [
            {
                "first": first,
                "second": second,
                "gain": paired_bootstrap(main[first], main[second])._asdict(),
                "p": p_value,
            }
            for (first, second), p_value in zip(pairs, p_values, strict=True)
        ],
    }


def _comparisons(models: Sequence[str], systems: Container[str]) -> list[tuple[str, str]]:
    """Return the pairs of systems to compare, the baseline first."""
    pairs = []
    for name in models:
        pairs += [(_DENSE, f"{name} {_OVER_DENSE}"), (_DENSE, f"{name} {_FUSED}")]
        pairs += [(base, f"{name} {_OVER_BM25}") for base in (_BM25, _DENSE_OVER_BM25)]
    baseline, *others = models
    for system in (_OVER_DENSE, _OVER_BM25, _FUSED):
        pairs += [(f"{baseline} {system}", f"{other} {system}") for other in others]
    return [pair for pair in pairs if pair[0] in systems and pair[1] in systems]
