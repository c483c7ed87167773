"""Fourth step: what a model is worth on retrieval sets that nothing was trained on.

A first stage's scores and a model's are kept in a folder, so that a second evaluation of the same
questions is quick. The figures: nDCG@10 and MRR@10 with 95% intervals, and paired comparisons
with permutation tests, all p-values of a set corrected together (Holm).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.environment import environment
from benchmarks.first_stage import DenseIndex, FirstStage, SparseIndex, sample
from benchmarks.found import SEED
from benchmarks.quality import SETS
from benchmarks.ways import Way, ordered, pair_scores
from rerank_plugins import Reranker
from rerank_plugins.evaluation.beir import RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import Scores, bootstrapped_mean, paired_bootstrap, per_query
from rerank_plugins.evaluation.pools import digest, read_array, save_array
from rerank_plugins.evaluation.searches import nearest
from rerank_plugins.evaluation.significance import holm, permutation_p

MEASURES: Final = ("nDCG@10", "RR@10")
BM25, DENSE, DENSE_OVER_BM25 = "BM25", "bi-encoder", "bi-encoder over BM25's best 100"
_OVER_DENSE, _OVER_BM25, _FUSED = "over the bi-encoder's best 50", "over BM25's best 100", "fused"


class Questions:
    """A sample of a set's questions, and what both first stages find for them."""

    def __init__(self, data: RetrievalSet, count: int, folder: Path) -> None:
        """Search the set, or read what was found before.

        Args:
            data: The set.
            count: Size of the sample; 0, or more than there are, takes all.
            folder: Where scores are kept.
        """
        self.data = data
        self.asked = sample(data, count or len(data.qrels), SEED)
        self.queries = [data.queries[one] for one in self.asked]
        self.texts = [passage.content for passage in data.passages]
        self._folder = folder
        self._key = digest(*self.asked, *(one.id for one in data.passages), *self.texts)
        self.first = {name: self._searched(name) for name in ("bm25", "bi-encoder")}

    def _searched(self, name: FirstStage) -> NDArray[np.float64]:
        file = self._folder / f"{name}-{self._key}.npy"
        scores = read_array(file)
        if scores is None:
            index = SparseIndex(self.texts) if name == "bm25" else DenseIndex(self.texts)
            scores = index(self.queries)
            save_array(file, scores)
        return scores

    def scored(self, reranker: Reranker, *, quick: bool) -> NDArray[np.float32]:
        """Score the best of both first stages, or only of the bi-encoder.

        Returns:
            Raw scores, NaN elsewhere, shape ``(questions, passages)``.
        """
        identity = reranker.engine.backend.identity
        file = self._folder / f"scores-{self._key}-{digest(repr(identity))}.npy"
        wanted = [
            np.union1d(nearest(sparse, 0 if quick else 100), nearest(dense, 50))
            for sparse, dense in zip(self.first["bm25"], self.first["bi-encoder"], strict=True)
        ]
        return pair_scores(reranker, self.queries, self.texts, wanted, file)

    def measured(self, way: Way, scores: Mapping[str, NDArray[np.float32]]) -> dict[str, Scores]:
        """Measure a system; the bi-encoder can be a second stage of that name, too."""
        run = {}
        for row, one in enumerate(self.asked):
            raw = {name: values[row] for name, values in scores.items()}
            raw[DENSE] = self.first["bi-encoder"][row].astype(np.float32)
            order = ordered(way, self.first[_stage(way)][row], raw)
            run[one] = [self.data.passages[at].id for at in order]
        return per_query(self.data.qrels, run, MEASURES)


def _stage(way: Way) -> str:
    return str(way.first)


def systems_of(models: Iterable[str], *, quick: bool = False) -> dict[str, Way]:
    """Return what is compared: first stages, and each model over what they find.

    Args:
        models: Their names.
        quick: Whether to leave out what reads BM25's best.
    """
    systems = {
        BM25: Way("bm25", 100),
        DENSE: Way("bi-encoder", 50),
        DENSE_OVER_BM25: Way("bm25", 100, DENSE),
    }
    for name in models:
        systems[f"{name} {_OVER_DENSE}"] = Way("bi-encoder", 50, name)
        systems[f"{name} {_FUSED}"] = Way("bi-encoder", 50, name, fused=True)
        if not quick:
            systems[f"{name} {_OVER_BM25}"] = Way("bm25", 100, name)
    return systems


def compared(models: Sequence[str], systems: Container[str]) -> list[tuple[str, str]]:
    """Return the pairs of systems that matter, the one to beat first."""
    pairs = []
    for name in models:
        pairs += [(DENSE, f"{name} {_OVER_DENSE}"), (DENSE, f"{name} {_FUSED}")]
        pairs += [(base, f"{name} {_OVER_BM25}") for base in (BM25, DENSE_OVER_BM25)]
    first, *others = models
    for way in (_OVER_DENSE, _OVER_BM25, _FUSED):
        pairs += [(f"{first} {way}", f"{other} {way}") for other in others]
    return [pair for pair in pairs if pair[0] in systems and pair[1] in systems]


def figures(
    questions: Questions, rerankers: Mapping[str, Reranker], *, quick: bool = False
) -> dict[str, Any]:
    """Return the figures of all systems on one set, ready for JSON."""
    scores = {name: questions.scored(one, quick=quick) for name, one in rerankers.items()}
    systems = systems_of(rerankers, quick=quick)
    values = {name: questions.measured(way, scores) for name, way in systems.items()}
    couples = compared(list(rerankers), systems)
    measure = MEASURES[0]
    chances = holm(
        [
            permutation_p(values[first][measure], values[second][measure])
            for first, second in couples
        ]
    )
    return {
        "documents": len(questions.texts),
        "questions": len(questions.asked),
        "systems": {
            name: {key: bootstrapped_mean(found)._asdict() for key, found in one.items()}
            for name, one in values.items()
        },
        "comparisons": [
            {
                "first": first,
                "second": second,
                "gain": paired_bootstrap(values[first][measure], values[second][measure])._asdict(),
                "p": chance,
            }
            for (first, second), chance in zip(couples, chances, strict=True)
        ],
    }


def evaluate(
    rerankers: Mapping[str, Reranker],
    sets: Path,
    kept: Path,
    questions: int,
    *,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure models on all sets.

    Args:
        rerankers: By name; the first one is what later ones are compared with.
        sets: Folder of the sets, in BEIR layout.
        kept: Folder that keeps scores.
        questions: Of each set; 0 is all.
        quick: Whether to leave out what reads BM25's best.
    """
    found: dict[str, Any] = {
        "dtypes": {name: one.engine.backend.identity.dtype for name, one in rerankers.items()},
        "seed": SEED,
        "environment": environment(),
        "sets": {},
    }
    for name in tqdm(SETS, desc="evaluate", unit="set", disable=None):
        asked = Questions(read_beir(sets / name), questions, kept)
        found["sets"][name] = figures(asked, rerankers, quick=quick)
    return found
