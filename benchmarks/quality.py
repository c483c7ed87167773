"""What each way of searching finds, and how fast: ``python -m benchmarks.quality ../shared/data``.

For each retrieval set in BEIR layout: BM25, a bi-encoder, both together, and the embedded
cross-encoder over what they find. Every pair is scored once and serves all depths and fusions; the
time of a question is taken apart, of a few whole searches, system after system in turn. An
interrupted run goes on where it was: pair scores and times are kept in a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.environment import ROOT, commit, environment
from benchmarks.first_stage import sample
from benchmarks.found import SEED
from benchmarks.ways import BASELINE, MODELS, WAYS, Corpus, ordered, pair_scores
from rerank_plugins import Reranker
from rerank_plugins.config import MINI
from rerank_plugins.evaluation.candidates import digest, read_array, save_array
from rerank_plugins.evaluation.datasets import RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import bootstrapped_mean, paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "quality.json"
KEPT: Final = ROOT / "build" / "quality"
SETS: Final = ("squad-dev", "nq-gold", "stackfaq", "vaswani")
MEASURES: Final = ("nDCG@10", "RR@10", "R@50")


class Trial:
    """One set: its corpus, a sample of its questions, what first stages find for them."""

    def __init__(self, data: RetrievalSet, questions: int, seed: int) -> None:
        """Search the set.

        Args:
            data: The set.
            questions: Size of the sample; 0, or more than there are, takes all.
            seed: Of the sample.
        """
        self.data = data
        self.asked = sample(data, questions or len(data.qrels), seed)
        self.queries = [data.queries[one] for one in self.asked]
        self.corpus = Corpus([passage.content for passage in data.passages])
        firsts = dict.fromkeys(way.first for way in WAYS.values())
        self.scores = {first: self.corpus.search(first, self.queries) for first in firsts}
        self.key = digest(
            *self.asked, *(part for one in data.passages for part in (one.id, one.content))
        )

    def wanted(self, model: str, row: int) -> NDArray[np.intp]:
        """Return the passages that some system has a model score for a question."""
        depths = {way.first: 0 for way in WAYS.values()}
        for way in WAYS.values():
            if way.model == model:
                depths[way.first] = max(depths[way.first], way.depth)
        return np.unique(
            np.concatenate(
                [
                    np.argsort(-self.scores[first][row], kind="stable")[:depth]
                    for first, depth in depths.items()
                ]
            )
        )

    def score(self, model: str, reranker: Reranker, folder: Path) -> NDArray[np.float32]:
        """Score what systems need of a model, once.

        Returns:
            Raw scores, shape ``(questions, passages)``; NaN where no system asks.
        """
        file = folder / f"scores-{self.key}-{digest(repr(reranker.engine.identity))}.npy"
        wanted = [self.wanted(model, row) for row in range(len(self.asked))]
        return pair_scores(reranker, self.queries, self.corpus.texts, wanted, file)

    def time(self, timed: int, folder: Path) -> NDArray[np.float64]:
        """Answer some questions whole, each by all systems in turn.

        Returns:
            Seconds, shape ``(timed questions, systems)``.
        """
        file = folder / f"times-{self.key}-{digest(commit(), *WAYS)}.npy"
        stored = read_array(file)
        some = self.queries[:timed]
        times = np.full((len(some), len(WAYS)), np.nan)
        if stored is not None:
            times[: len(stored)] = stored[: len(some)]
        left = np.flatnonzero(np.isnan(times).any(axis=1))
        if len(left):
            self._take_turns(self.queries[-1])  # prepares what each shape needs
        for row in left:
            times[row] = self._take_turns(some[row])
            save_array(file, times)
        return times

    def _take_turns(self, query: str) -> list[float]:
        taken = []
        for way in WAYS.values():
            start = perf_counter()
            self.corpus.answer(way, query)
            taken.append(perf_counter() - start)
        return taken

    def measure(
        self, raw: Mapping[str, NDArray[np.float32]], times: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Return the figures of every system."""
        found: dict[str, Any] = {}
        values: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name, way in WAYS.items():
            run = {
                one: self._ids(
                    ordered(
                        way,
                        self.scores[way.first][row],
                        {model: scores[row] for model, scores in raw.items()},
                    )
                )
                for row, one in enumerate(self.asked)
            }
            values[name] = per_query(self.data.qrels, run, MEASURES)
        for column, (name, one) in enumerate(values.items()):
            gain = paired_bootstrap(values[BASELINE]["nDCG@10"], one["nDCG@10"])
            milliseconds = np.percentile(times[:, column] * 1000, (50, 95)).tolist()
            found[name] = {
                **{measure: bootstrapped_mean(one[measure])._asdict() for measure in MEASURES},
                "gain": {**gain._asdict(), "verdict": gain.verdict},
                "latency_ms": dict(zip(("p50", "p95"), milliseconds, strict=True)),
            }
        return {
            "documents": len(self.corpus.texts),
            "questions": len(self.asked),
            "timed": len(times),
            "pairs": {model: int(np.isfinite(scores).sum()) for model, scores in raw.items()},
            "systems": found,
        }

    def _ids(self, positions: Sequence[int]) -> list[str]:
        return [self.data.passages[at].id for at in positions]


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    *,
    questions: Annotated[int, typer.Option(help="Sample of each set; 0 is all.")] = 150,
    timed: Annotated[int, typer.Option(help="Questions whose time is taken.")] = 15,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = SEED,
    kept: Annotated[Path, typer.Option(help="Folder to go on from.")] = KEPT,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure all sets and write the figures as JSON."""
    rerankers = {model: Reranker(MINI, **settings).warm_up() for model, settings in MODELS.items()}
    results: dict[str, Any] = {
        "dtypes": {model: one.engine.backend.identity.dtype for model, one in rerankers.items()},
        "seed": seed,
        "environment": environment(),
        "sets": {},
    }
    for name in SETS:
        trial = Trial(read_beir(sets / name), questions, seed)
        # Times first: the machine has not warmed up yet under a long load.
        times = trial.time(timed, kept)
        raw = {model: trial.score(model, one, kept) for model, one in rerankers.items()}
        results["sets"][name] = trial.measure(raw, times)
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
