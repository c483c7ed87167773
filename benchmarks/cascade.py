"""What a cascade saves and costs: ``python -m benchmarks.cascade ../shared/data``.

For each retrieval set in BEIR layout: the embedded cross-encoder over the bi-encoder's best
1000, and over the best few of them only. The cascades' rankings are made from the scores of the
full run, since a pair's score does not depend on its neighbours; a few questions are also asked
for real, which is timed and compared with what was made.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.environment import ROOT, environment
from rerank_plugins import BiEncoder, BiEncoderScorer, Cascade, Ranking, Reranker
from rerank_plugins.core.config import MINI
from rerank_plugins.evaluation.beir import RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "cascade.json"
SETS: Final = ("squad-dev", "nq-gold")
MEASURE: Final = "nDCG@10"
CANDIDATES: Final = 1_000
KEEPS: Final = (50, 100, 150, 250)
TIMED: Final = 3
SEED: Final = 11


@dataclass(frozen=True)
class Full:
    """A question whose candidates were all scored.

    Attributes:
        query: The question.
        rows: The candidates among the passages, best cosine first.
        scores: The cross-encoder's, one a candidate.
        ranking: As it was answered.
    """

    query: str
    rows: NDArray[np.intp]
    scores: NDArray[np.float32]
    ranking: Ranking

    def kept(self, keep: int) -> list[int]:
        """Return the candidates as a cascade orders those that it keeps, then the others."""
        best = np.argsort(-self.scores[:keep], kind="stable")
        return [*best.tolist(), *range(keep, len(self.rows))]


def measure(folder: Path, questions: int, reranker: Reranker, timed: int = TIMED) -> dict[str, Any]:
    """Measure one set.

    Args:
        folder: The set.
        questions: Size of the sample; the whole set if it has fewer.
        reranker: The last stage.
        timed: How many questions to ask for real.

    Returns:
        The measure for all candidates and for each count that is kept, and the costs.
    """
    data = read_beir(folder)
    asked = sorted(data.qrels)
    if len(asked) > questions:
        asked = random.Random(SEED).sample(asked, questions)  # noqa: S311  (no secret)
    texts = [passage.content for passage in data.passages]
    encoder = BiEncoder()
    index = encoder.encode_documents(texts)
    cosines = encoder.encode_queries([data.queries[one] for one in asked]) @ index.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :CANDIDATES]
    found = [
        _scored(data.queries[one], row, texts, reranker)
        for one, row in zip(asked, best, strict=True)
    ]
    candidates = best.shape[1]
    full = _values(data, asked, found, candidates)
    stored = BiEncoderScorer(encoder, dict(zip(texts, index, strict=True)))
    cascades = {}
    for keep in [one for one in KEEPS if one < candidates]:
        values = _values(data, asked, found, keep)
        loss = paired_bootstrap(full, values)
        cascades[str(keep)] = {
            MEASURE: float(values.mean()),
            "difference": loss._asdict(),
            "pairs_share": keep / candidates,
            "timed": _timed(Cascade([(stored, keep), reranker]), found[:timed], texts, keep),
        }
    return {
        "documents": len(texts),
        "questions": len(asked),
        "candidates": candidates,
        "full": {
            MEASURE: float(full.mean()),
            "compute_s": sum(one.ranking.stats.compute_s for one in found),
            "tokens": sum(one.ranking.stats.tokens for one in found),
        },
        "cascades": cascades,
    }


def _scored(query: str, rows: NDArray[np.intp], texts: Sequence[str], reranker: Reranker) -> Full:
    ranking = reranker.rank(query, [texts[row] for row in rows])
    scores = np.empty(len(rows), dtype=np.float32)
    for document in ranking:
        scores[document.index] = document.raw_score
    return Full(query, rows, scores, ranking)


def _values(
    data: RetrievalSet, asked: Sequence[str], found: Sequence[Full], keep: int
) -> NDArray[np.float64]:
    run: Mapping[str, list[str]] = {
        one: [data.passages[full.rows[at]].id for at in full.kept(keep)]
        for one, full in zip(asked, found, strict=True)
    }
    return per_query(data.qrels, run, [MEASURE])[MEASURE]


def _timed(
    cascade: Cascade, found: Sequence[Full], texts: Sequence[str], keep: int
) -> dict[str, float]:
    """Ask for real; return the cost as a share of the full run's, and whether the top agrees."""
    rankings = [cascade.rank(one.query, [texts[row] for row in one.rows]) for one in found]
    stats = [ranking.stats for ranking in rankings]
    alone = [one.ranking.stats for one in found]
    same = [
        [document.index for document in ranking[:10]] == one.kept(keep)[:10]
        for one, ranking in zip(found, rankings, strict=True)
    ]
    return {
        "compute_share": sum(one.compute_s for one in stats) / sum(one.compute_s for one in alone),
        "tokens_share": sum(one.tokens for one in stats) / sum(one.tokens for one in alone),
        "same_top_10": sum(same) / len(same),
    }


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    questions: Annotated[int, typer.Option(help="Sample of each set.")] = 40,
    model: Annotated[str, typer.Option(help="The cross-encoder.")] = MINI,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure all sets and write the figures as JSON."""
    reranker = Reranker(model).warm_up()
    results: dict[str, Any] = {
        "model": model,
        "dtype": reranker.engine.backend.identity.dtype,
        "timed_questions": TIMED,
        "seed": SEED,
        "environment": environment(),
        "sets": {},
    }
    for name in SETS:
        results["sets"][name] = measure(sets / name, questions, reranker)
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
