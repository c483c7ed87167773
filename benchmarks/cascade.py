"""What a cascade saves and costs: ``python -m benchmarks.cascade ../shared/data``.

For each retrieval set in BEIR layout: the embedded cross-encoder over the bi-encoder's best
1000, and cascades that let it read the best few of them only. All pairs are scored once; the
cascades then run on these scores, since a pair's score does not depend on its neighbors. Cost
is counted in tokens computed, which no other load of the machine changes. ``--timed`` asks a few
questions for real as well, and tells processor seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.environment import ROOT, environment
from benchmarks.first_stage import Pool, pool_of
from benchmarks.known_scores import KnownScores
from rerank_plugins import BiEncoder, BiEncoderScorer, Cascade, Ranking, Reranker
from rerank_plugins.config import MINI
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query
from rerank_plugins.evaluation.tuning import LabeledQuery, fit_margin
from rerank_plugins.types import Scorer

RESULTS: Final = ROOT / "benchmarks" / "results" / "cascade.json"
SETS: Final = ("squad-dev", "nq-gold")
MEASURE: Final = "nDCG@10"
CANDIDATES: Final = 1_000
KEEPS: Final = (25, 50, 100, 200)
CHOSEN: Final = 100
"""Kept where a margin is fitted, and where it is timed."""

LOSS: Final = 0.005
"""Bound of the fitted margin's loss."""

SEED: Final = 11


@dataclass(frozen=True)
class Cheap:
    """The first stage of the cascades: cosines with stored embeddings."""

    scorer: BiEncoderScorer

    def before(self, keep: int, last: Scorer | Reranker, margin: float | None = None) -> Cascade:
        """Return the cascade that lets so many go on to the last stage."""
        return Cascade([(self.scorer, keep, None, margin), last])


def measure(folder: Path, questions: int, labeled: int, reranker: Reranker) -> dict[str, Any]:
    """Measure quality and tokens of one set.

    Args:
        folder: The set.
        questions: Size of the sample for which all candidates are scored.
        labeled: Size of the larger one that a margin is fitted on, for which only those
            that the cascade keeps are.
        reranker: The last stage.
    """
    pool = pool_of(folder, questions, SEED, CANDIDATES)
    cheap = _cheap(pool)
    known = KnownScores()
    known.add(reranker, pool.queries, pool.documents)
    full = [Reranker(known).rank(*one) for one in zip(pool.queries, pool.documents, strict=True)]
    best = _values(pool, full)
    tokens = sum(one.stats.tokens for one in full)
    first = _values(pool, None)
    cascades = {}
    for keep in [one for one in KEEPS if one < len(pool.documents[0])]:
        cascade = cheap.before(keep, known)
        found = [cascade.rank(*one) for one in zip(pool.queries, pool.documents, strict=True)]
        values = _values(pool, found)
        cascades[str(keep)] = {
            MEASURE: float(values.mean()),
            "of_full": float(values.mean() / best.mean()),
            "difference": paired_bootstrap(best, values)._asdict(),
            "tokens_share": sum(one.stats.tokens for one in found) / tokens,
        }
    return {
        "documents": pool.corpus,
        "questions": len(pool.queries),
        "candidates": len(pool.documents[0]),
        "first_stage": float(first.mean()),
        "full": {MEASURE: float(best.mean()), "tokens_a_question": tokens / len(full)},
        "cascades": cascades,
        "margin": _margin(folder, labeled, reranker, tokens / len(full)),
    }


def _margin(folder: Path, labeled: int, reranker: Reranker, full: float) -> dict[str, Any]:
    """Fit a margin for the bi-encoder, and count what it saves on top of keeping few."""
    pool = pool_of(folder, labeled, SEED, CHOSEN)
    known = KnownScores()
    known.add(reranker, pool.queries, pool.documents)
    cascade = _cheap(pool).before(CHOSEN, known)
    grades = [
        [pool.qrels[one].get(identifier, 0) for identifier in pool.ids[number]]
        for number, one in enumerate(pool.asked)
    ]
    queries = [LabeledQuery(*one) for one in zip(pool.queries, pool.documents, grades, strict=True)]
    fitted = fit_margin(cascade, queries, loss=LOSS)
    found = [fitted.cascade.rank(one.query, one.documents) for one in queries]
    return {
        "questions": len(queries),
        "keep": CHOSEN,
        "loss_bound": LOSS,
        "margin": fitted.margin,
        "stopped": fitted.stopped,
        "loss": fitted.loss,
        "held_out_stopped": fitted.held_out_stopped,
        "held_out_loss": fitted.held_out_loss,
        "tokens_share": float(np.mean([one.stats.tokens for one in found])) / full,
    }


def time_set(folder: Path, questions: int, reranker: Reranker) -> dict[str, Any]:
    """Ask some questions for real, with all candidates and through the cascade in turn."""
    pool = pool_of(folder, questions, SEED, CANDIDATES)
    cascade = _cheap(pool).before(CHOSEN, reranker)
    cascade.rank(pool.queries[0], pool.documents[0][: CHOSEN * 2])
    seconds: dict[str, list[float]] = {"full": [], "cascade": []}
    same = []
    for query, documents in zip(pool.queries, pool.documents, strict=True):
        rankings = {}
        for name, asked in {"cascade": Reranker(cascade), "full": reranker}.items():
            start = process_time()
            rankings[name] = asked.rank(query, documents)
            seconds[name].append(process_time() - start)
        kept = [one.index for one in rankings["full"] if one.index < CHOSEN][:10]
        same.append([one.index for one in rankings["cascade"] if one.scored][:10] == kept)
    return {
        "questions": len(pool.queries),
        "keep": CHOSEN,
        "processor_s": {name: float(np.median(each)) for name, each in seconds.items()},
        "processor_share": sum(seconds["cascade"]) / sum(seconds["full"]),
        "same_top_10": sum(same) / len(same),
    }


def _cheap(pool: Pool) -> Cheap:
    texts = list(dict.fromkeys(text for documents in pool.documents for text in documents))
    encoder = BiEncoder()
    stored = dict(zip(texts, encoder.encode_document(texts), strict=True))
    return Cheap(BiEncoderScorer(encoder, stored))


def _values(pool: Pool, rankings: Sequence[Ranking] | None) -> NDArray[np.float64]:
    """Return the measure of each question; None are the rankings of the first stage."""
    orders = (
        [range(len(ids)) for ids in pool.ids]
        if rankings is None
        else [[one.index for one in ranking] for ranking in rankings]
    )
    run: Mapping[str, list[str]] = {
        one: [ids[at] for at in order]
        for one, ids, order in zip(pool.asked, pool.ids, orders, strict=True)
    }
    return per_query(pool.qrels, run, [MEASURE])[MEASURE]


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    *,
    questions: Annotated[int, typer.Option(help="Sample of each set; 0 only times.")] = 40,
    labeled: Annotated[int, typer.Option(help="Sample that margins are fitted on.")] = 100,
    timed: Annotated[int, typer.Option(help="Questions of each set to time.")] = 0,
    scores: Annotated[
        Path | None, typer.Option(help="Folder that keeps the scores; nothing can be timed then.")
    ] = None,
    model: Annotated[str, typer.Option(help="The cross-encoder.")] = MINI,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure the sets and write the figures as JSON; what is not measured stays as it was."""
    if timed and scores:
        message = "known scores take no time: leave out --scores, or --timed."
        raise typer.BadParameter(message)
    if scores:
        BiEncoder(cache_dir=scores / "embeddings").warm_up()
    reranker = Reranker(model, cache_dir=scores and scores / "pairs").warm_up()
    results: dict[str, Any] = json.loads(output.read_text("utf-8")) if output.is_file() else {}
    results |= {"model": model, "dtype": reranker.engine.identity.dtype, "seed": SEED}
    for name in SETS:
        if questions:
            results.setdefault("quality", {})[name] = measure(
                sets / name, questions, labeled, reranker
            )
            results["quality_environment"] = environment()
        if timed:
            results.setdefault("timed", {})[name] = time_set(sets / name, timed, reranker)
            results["timed_environment"] = environment()
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
