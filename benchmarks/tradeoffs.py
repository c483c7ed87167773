"""Quality per cost: cascades, deadlines and windows over long documents."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from benchmarks.common import Row, make_rows, milliseconds
from benchmarks.retrieval import FirstStage, Pool, make_pool, sample_queries, search
from rerank_plugins import BiEncoder, BiEncoderScorer, Cache, Cascade, Ranking, Reranker, Windows
from rerank_plugins.config import MINI
from rerank_plugins.evaluation import read_beir
from rerank_plugins.evaluation.datasets import Passage
from rerank_plugins.evaluation.metrics import paired_bootstrap
from rerank_plugins.evaluation.tuning import LabeledQuery, fit_early_exit_margin

MEASURE: Final = "nDCG@10"
CACHE: Final = Cache(memory_mb=256)
"""Cached scores let configurations share pairs; statistics still count their tokens."""

CANDIDATES: Final = 1_000

CASCADE_SETS: Final = ("squad-dev", "nq-gold")
KEEPS: Final = (25, 50, 100, 200)
FITTED_KEEP: Final = 100
"""Documents that the cascade keeps where a margin is fitted."""

LOSS: Final = 0.005
"""Bound of the loss of a fitted margin."""

BUDGETS_MS: Final = (50, 100, 200, 500, 1_000)
WARM_UP: Final = 5

LONG_SET: Final = "squad-dev"
LONG_SEED: Final = 17
SECTION: Final = (5, 10)
"""Minimum and maximum number of paragraphs of a section."""

TOP_WINDOWS: Final = (1, 2, 3)


def _stored_bi_encoder(pool: Pool) -> BiEncoderScorer:
    """Return the bi-encoder with stored embeddings of the pool's documents."""
    texts = list(dict.fromkeys(text for documents in pool.documents for text in documents))
    encoder = BiEncoder()
    stored = dict(zip(texts, encoder.encode_document(texts), strict=True))
    return BiEncoderScorer(encoder, stored)


def cascade_rows(pool: Pool, reranker: Reranker, dataset: str) -> list[Row]:
    """Measure tokens and quality of cascades that keep fewer candidates for the last stage."""
    first_stage = _stored_bi_encoder(pool)
    full = [reranker.rank(query, documents) for query, documents in pool.requests]
    best, before = pool.evaluate(full, MEASURE), pool.evaluate(None, MEASURE)
    tokens = sum(ranking.stats.tokens for ranking in full)
    counts = {"documents": pool.corpus_size, "questions": len(pool.queries)}
    rows = make_rows("cascade", "", dataset, counts)
    metrics: dict[str, Any] = {"tokens_share": 0.0, MEASURE: float(before.mean())}
    rows += make_rows("cascade", "bi-encoder only", dataset, metrics)
    candidates = len(pool.documents[0])
    for keep in (count for count in KEEPS if count < candidates):
        cascade = Cascade([(first_stage, keep), reranker])
        rankings = [cascade.rank(query, documents) for query, documents in pool.requests]
        values = pool.evaluate(rankings, MEASURE)
        metrics = {
            "tokens_share": sum(ranking.stats.tokens for ranking in rankings) / tokens,
            MEASURE: float(values.mean()),
            "of_full": float(values.mean() / best.mean()),
            "difference": paired_bootstrap(best, values),
        }
        rows += make_rows("cascade", f"best {keep}", dataset, metrics)
    metrics = {
        "tokens_share": 1.0,
        MEASURE: float(best.mean()),
        "of_full": 1.0,
        "tokens_per_question": tokens / len(full),
    }
    return rows + make_rows("cascade", f"all {candidates}", dataset, metrics)


def early_exit_rows(
    pool: Pool, reranker: Reranker, dataset: str, full_tokens: float | None = None
) -> list[Row]:
    """Fit the margin at which the bi-encoder's order is final, and measure it.

    Args:
        pool: Queries with the candidates that the cascade keeps.
        reranker: The last stage.
        dataset: The name of the set.
        full_tokens: Tokens per query without a cascade, to compare with.
    """
    cascade = Cascade([(_stored_bi_encoder(pool), FITTED_KEEP), reranker])
    labeled = [
        LabeledQuery(query=query, documents=documents, grades=grades)
        for (query, documents), grades in zip(pool.requests, pool.grades, strict=True)
    ]
    fitted = fit_early_exit_margin(cascade, labeled, loss=LOSS)
    rankings = [fitted.cascade.rank(query.query, query.documents) for query in labeled]
    tokens = float(np.mean([ranking.stats.tokens for ranking in rankings]))
    metrics = {
        "questions": len(labeled),
        "loss_bound": LOSS,
        "margin": fitted.margin,
        "loss": fitted.loss,
        "held_out_stopped": fitted.held_out_stopped,
        "held_out_loss": fitted.held_out_loss,
        "tokens_share": tokens / full_tokens if full_tokens else None,
    }
    return make_rows("early-exit", f"best {FITTED_KEEP}", dataset, metrics)


def measure_cascade(sets: Path, *, queries: int = 40, fitted: int = 100) -> Iterator[list[Row]]:
    """Yield the figures of cascades, set by set.

    Args:
        sets: Folder of the sets.
        queries: Queries whose candidates are all scored.
        fitted: Queries that the margin is fitted on.
    """
    reranker = Reranker(cache=CACHE).warm_up()
    for dataset in CASCADE_SETS:
        pool = make_pool(sets / dataset, queries, depth=CANDIDATES)
        rows = cascade_rows(pool, reranker, dataset)
        full = next(row.value for row in rows if row.metric == "tokens_per_question")
        labeled = make_pool(sets / dataset, fitted, depth=FITTED_KEEP)
        yield rows + early_exit_rows(labeled, reranker, dataset, full)


class DeadlineSetting(NamedTuple):
    """Candidates and fusion that are timed under a deadline.

    A deadline can only raise the quality where the model is better than the first stage.
    """

    dataset: str
    first_stage: FirstStage
    fusion: Literal["none", "weighted"]


DEADLINE_SETTINGS: Final = (
    DeadlineSetting("squad-dev", "bi-encoder", "none"),
    DeadlineSetting("vaswani", "bm25", "weighted"),
    DeadlineSetting("nq-gold", "bi-encoder", "none"),
)


class Timed(NamedTuple):
    """Figures of a ranking; whole rankings would keep the garbage collector busy."""

    best: list[int]
    scored: int
    seconds: float


def deadline_rows(pool: Pool, reranker: Reranker, dataset: str) -> list[Row]:
    """Measure lateness, scored documents and quality, the budgets interleaved."""
    for number in range(min(WARM_UP, len(pool.queries))):
        _rank_in_time(reranker, pool, number, BUDGETS_MS[-1])
    single = [_rank_one_pair(reranker, query, documents) for query, documents in pool.requests]
    gc.collect()
    gc.freeze()  # as the documentation advises
    timed: dict[int, list[Timed]] = {budget: [] for budget in BUDGETS_MS}
    for number in range(len(pool.queries)):
        for budget, rankings in timed.items():
            rankings.append(_rank_in_time(reranker, pool, number, budget))
    gc.unfreeze()
    before = pool.evaluate(None, MEASURE)
    counts = {"questions": len(pool.queries), "one_pair_ms": milliseconds(single)["p50_ms"]}
    rows = make_rows("deadline", "", dataset, counts)
    first = {"scored": 0, MEASURE: float(before.mean())}
    rows += make_rows("deadline", "first stage", dataset, first)
    for budget, rankings in timed.items():
        after = pool.evaluate([ranking.best for ranking in rankings], MEASURE)
        times = milliseconds([ranking.seconds for ranking in rankings])
        metrics: dict[str, Any] = {
            "scored": float(np.mean([ranking.scored for ranking in rankings])),
            "p50_ms": times["p50_ms"],
            "p95_ms": times["p95_ms"],
            "late_p95_ms": times["p95_ms"] - budget,
            "late_max_ms": times["max_ms"] - budget,
            MEASURE: float(after.mean()),
            "gain": paired_bootstrap(before, after),
        }
        rows += make_rows("deadline", f"{budget} ms", dataset, metrics)
    return rows


def _rank_in_time(reranker: Reranker, pool: Pool, number: int, budget_ms: int) -> Timed:
    query, documents = pool.requests[number]
    scores = pool.scores[number].tolist()
    start = perf_counter()
    ranking = reranker.rank(query, documents, deadline_ms=budget_ms, retrieval_scores=scores)
    seconds = perf_counter() - start
    return Timed([document.index for document in ranking[:10]], ranking.stats.scored, seconds)


def _rank_one_pair(reranker: Reranker, query: str, documents: Sequence[str]) -> float:
    start = perf_counter()
    reranker.rank(query, documents[:1])
    return perf_counter() - start


def measure_deadline(sets: Path, *, queries: int = 36) -> Iterator[list[Row]]:
    """Yield the figures of all budgets, setting by setting."""
    for setting in DEADLINE_SETTINGS:
        folder = sets / setting.dataset
        pool = make_pool(folder, queries, depth=CANDIDATES, first_stage=setting.first_stage)
        yield deadline_rows(pool, Reranker(fusion=setting.fusion), ", ".join(setting))


class LongDocument(NamedTuple):
    """Consecutive paragraphs of an article."""

    text: str
    paragraphs: list[str]


def join_paragraphs(passages: Sequence[Passage], kind: str) -> list[LongDocument]:
    """Join the paragraphs of each article to ``"sections"`` or whole ``"articles"``."""
    rng = random.Random(LONG_SEED)  # noqa: S311  (no secret)
    documents = []
    for title, group in groupby(passages, key=lambda passage: passage.title):
        article = list(group)
        while article:
            size = len(article) if kind == "articles" else rng.randint(*SECTION)
            part, article = article[:size], article[size:]
            text = "\n\n".join([title, *(passage.text for passage in part)])
            documents.append(LongDocument(text, [passage.id for passage in part]))
    return documents


def make_long_pool(folder: Path, kind: str, queries: int, depth: int) -> Pool:
    """Return queries whose candidates are joined paragraphs.

    A document is relevant if it holds the paragraph that is relevant.
    """
    data = read_beir(folder)
    documents = join_paragraphs(data.passages, kind)
    position_of = {
        paragraph: str(number)
        for number, document in enumerate(documents)
        for paragraph in document.paragraphs
    }
    query_ids = sample_queries(data, queries, LONG_SEED)
    texts = [document.text for document in documents]
    positions, scores = search(
        "bi-encoder", texts, [data.queries[query] for query in query_ids], depth
    )
    return Pool(
        query_ids=query_ids,
        queries=[data.queries[query] for query in query_ids],
        document_ids=[[str(position) for position in row] for row in positions],
        documents=[[texts[position] for position in row] for row in positions],
        scores=scores,
        qrels={
            query: {position_of[name]: grade for name, grade in data.qrels[query].items()}
            for query in query_ids
        },
        corpus_size=len(documents),
    )


def long_document_rows(pool: Pool, kind: str, model: str = MINI) -> list[Row]:
    """Compare truncation with windows."""
    before = pool.evaluate(None, MEASURE)
    truncated = Reranker(model, cache=CACHE).rank_many(pool.requests)
    baseline = pool.evaluate(truncated, MEASURE)
    has_relevant = [max(grades, default=0) > 0 for grades in pool.grades]
    counts = {
        "documents": pool.corpus_size,
        "questions": len(pool.queries),
        "depth": len(pool.documents[0]),
        "recall": float(np.mean(has_relevant)),
        "truncated": float(
            np.mean([ranked.stats.truncated / ranked.stats.documents for ranked in truncated])
        ),
    }
    rows = make_rows("long-documents", "", kind, counts)
    first = {MEASURE: float(before.mean())}
    rows += make_rows("long-documents", "bi-encoder only", kind, first)
    rankings: dict[str, Sequence[Ranking]] = {"`truncate`": truncated}
    for count in TOP_WINDOWS:
        name = "`windows`, best window" if count == 1 else f"`windows`, mean of the best {count}"
        reranker = Reranker(model, cache=CACHE, long_documents=Windows(top_k=count))
        rankings[name] = reranker.rank_many(pool.requests)
    for name, ranked in rankings.items():
        values = pool.evaluate(ranked, MEASURE)
        metrics: dict[str, Any] = {
            MEASURE: float(values.mean()),
            "over_bi_encoder": paired_bootstrap(before, values),
            "over_truncate": paired_bootstrap(baseline, values) if ranked != truncated else None,
            "tokens": float(np.mean([ranking.stats.tokens for ranking in ranked])),
        }
        rows += make_rows("long-documents", name, kind, metrics)
    return rows


def measure_long_documents(sets: Path, *, queries: int = 100) -> Iterator[list[Row]]:
    """Yield the figures of sections and of articles; fewer queries where documents are longer."""
    for kind, depth, share in (("sections", 10, 1.0), ("articles", 5, 0.4)):
        count = max(1, round(queries * share))
        yield long_document_rows(make_long_pool(sets / LONG_SET, kind, count, depth), kind)
