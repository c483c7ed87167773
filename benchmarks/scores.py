"""Calibration, fusion and reduced precision: their effects on scores, quality and speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder

from benchmarks.common import Row, make_rows
from benchmarks.retrieval import (
    FUSION_WEIGHT,
    SETS,
    Candidates,
    Pool,
    make_pool,
    score_candidates,
)
from rerank_plugins import Reranker
from rerank_plugins.backends.devices import fast_bfloat16_on_cpu
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.config import MINI, FusionMethod
from rerank_plugins.core.calibration import Method
from rerank_plugins.core.ranking import sigmoid
from rerank_plugins.evaluation.metrics import paired_bootstrap
from rerank_plugins.evaluation.tuning import (
    LabeledQuery,
    brier_score,
    cross_validated,
    expected_calibration_error,
    fit_fusion_weight,
    fused_quality,
)
from rerank_plugins.types import FloatArray, ModelIdentity

MEASURE: Final = "nDCG@10"
CALIBRATION_SETS: Final = ("stackfaq", "nq-gold")
PRECISION: Final = 0.9
METHODS: Final = {"platt": "Platt", "isotonic": "isotonic"}
PEER: Final = "sentence-transformers"
EXACT: Final = "torch float32"
PRECISIONS: Final[dict[str, dict[str, Any]]] = {
    EXACT: {"backend": "torch", "dtype": "float32"},
    "torch bfloat16": {"backend": "torch", "dtype": "bfloat16"},
    "openvino float32": {"backend": "openvino", "dtype": "float32"},
    "openvino bfloat16": {"backend": "openvino", "dtype": "bfloat16"},
    "openvino int8": {"backend": "openvino", "dtype": "int8"},
}
COUNTS: Final = (10, 100)
"""Passages of a timed request."""


def calibration_rows(candidates: Candidates, model: ModelIdentity, dataset: str) -> list[Row]:
    """Measure the sigmoid and both calibrators on queries they were not fitted on.

    The threshold of the sigmoid is the precision itself.
    """
    scores, labels = candidates.raw_scores.ravel(), candidates.grades.ravel()
    queries, depth = candidates.raw_scores.shape
    groups = np.repeat(np.arange(queries), depth).tolist()
    probabilities = sigmoid(scores.astype(np.float64))
    kept, relevant = probabilities >= PRECISION, labels > 0
    counts = {"questions": queries, "pairs": len(labels), "relevant": int(relevant.sum())}
    metrics = {
        "calibration_error": expected_calibration_error(probabilities, labels),
        "brier": brier_score(probabilities, labels),
        "precision": float(relevant[kept].mean()) if kept.any() else None,
        "kept": int(kept.sum()),
        "recall": float(relevant[kept].sum() / relevant.sum()),
    }
    rows = make_rows("calibration", "", dataset, counts)
    rows += make_rows("calibration", "sigmoid, not calibrated", dataset, metrics)
    for method in get_args(Method):
        held_out = cross_validated(
            scores, labels, groups, model=model, method=method, precision=PRECISION
        )._asdict()
        metrics = {name: held_out[name] for name in metrics}
        rows += make_rows("calibration", METHODS[method], dataset, metrics)
    return rows


def fusion_rows(candidates: Candidates, dataset: str) -> list[Row]:
    """Measure both stages alone and every fusion of them."""
    queries = list(
        zip(
            candidates.raw_scores,
            candidates.retrieval_scores,
            candidates.grades,
            candidates.missed,
            strict=True,
        )
    )
    with_scores = [
        LabeledQuery(
            raw_scores=raw, retrieval_scores=retrieval, grades=grades.tolist(), missed=missed
        )
        for raw, retrieval, grades, missed in queries
    ]
    with_ranks = [
        LabeledQuery(raw_scores=raw, grades=grades.tolist(), missed=missed)
        for raw, _, grades, missed in queries
    ]
    first = fused_quality(with_scores, "weighted", 0, MEASURE)
    second = fused_quality(with_scores, "weighted", 1, MEASURE)
    rows = make_rows("fusion", "", dataset, {"questions": len(queries)})
    rows += make_rows("fusion", "bi-encoder alone", dataset, {MEASURE: float(first.mean())})
    metrics: dict[str, Any] = {
        MEASURE: float(second.mean()),
        "over_bi_encoder": paired_bootstrap(first, second),
    }
    rows += make_rows("fusion", "cross-encoder alone", dataset, metrics)
    fusions: dict[str, tuple[list[LabeledQuery], FusionMethod]] = {
        "`rrf`, weight 0.5": (with_ranks, "rrf"),
        "`weighted`, weight 0.5, ranks only": (with_ranks, "weighted"),
        "`weighted`, weight 0.5": (with_scores, "weighted"),
    }
    for name, (labeled, method) in fusions.items():
        values = fused_quality(labeled, method, FUSION_WEIGHT, MEASURE)
        metrics = {
            "weight": FUSION_WEIGHT,
            MEASURE: float(values.mean()),
            "over_bi_encoder": paired_bootstrap(first, values),
            "over_cross_encoder": paired_bootstrap(second, values),
        }
        rows += make_rows("fusion", name, dataset, metrics)
    fitted = fit_fusion_weight(with_scores, measure=MEASURE)
    metrics = {
        "weight": fitted.weight,
        MEASURE: fitted.held_out,
        "over_bi_encoder": fitted.over_retrieval,
        "over_cross_encoder": fitted.over_cross_encoder,
    }
    return rows + make_rows("fusion", "`weighted`, fitted weight", dataset, metrics)


def measure_calibration(sets: Path, *, queries: int = 200) -> Iterator[list[Row]]:
    """Yield the figures of calibration, set by set."""
    reranker = Reranker().warm_up()
    for dataset in CALIBRATION_SETS:
        candidates = score_candidates(make_pool(sets / dataset, queries), reranker)
        yield calibration_rows(candidates, reranker.engine.identity, dataset)


def measure_fusion(sets: Path, *, queries: int = 200) -> Iterator[list[Row]]:
    """Yield the figures of fusion, set by set."""
    reranker = Reranker().warm_up()
    for dataset in SETS:
        yield fusion_rows(score_candidates(make_pool(sets / dataset, queries), reranker), dataset)


def speed_rows(
    rankers: Mapping[str, Callable[[str, list[str]], Any]], pool: Pool, rounds: int
) -> list[Row]:
    """Time every ranker on the same queries, interleaved.

    Args:
        rankers: Functions that rank documents for a query; the first is the baseline.
        pool: Queries with their candidates.
        rounds: Number of timed queries; one more query is a warm-up.
    """
    rows = []
    for count in COUNTS:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in rankers}
        for number in range(rounds + 1):
            query, documents = pool.request(number, count)
            for name, rank in rankers.items():
                start, processor = perf_counter(), process_time()
                rank(query, documents)
                times[name].append((perf_counter() - start, process_time() - processor))
        # The first round prepares what each shape needs.
        seconds = {name: np.array(rounds_of[1:]) for name, rounds_of in times.items()}
        baseline = next(iter(seconds.values()))
        for name, columns in seconds.items():
            ratios = baseline / columns
            metrics: dict[str, Any] = {
                "p50_ms": 1e3 * float(np.median(columns[:, 0])),
                "cpu_ms": 1e3 * float(np.median(columns[:, 1])),
                "speedup": np.percentile(ratios[:, 0], (50, 5, 95)).tolist(),
                "cpu_speedup": float(np.median(ratios[:, 1])),
            }
            rows += make_rows("precision-speed", name, f"{count} passages", metrics)
    return rows


def precision_rows(
    pool: Pool, exact: Reranker, others: Mapping[str, Reranker], dataset: str
) -> list[Row]:
    """Compare the quality of rerankers of reduced precision with that of float32."""
    raw, before = _rank(pool, exact)
    counts = {"questions": len(pool.queries), "pairs": len(raw)}
    rows = make_rows("precision", "", dataset, counts)
    rows += make_rows("precision", EXACT, dataset, {MEASURE: float(before.mean())})
    for name, reranker in others.items():
        other, after = _rank(pool, reranker)
        metrics: dict[str, Any] = {
            MEASURE: float(after.mean()),
            "change": paired_bootstrap(before, after),
            "correlation": float(np.corrcoef(raw, other)[0, 1]),
            "largest_difference": float(np.abs(raw - other).max()),
        }
        rows += make_rows("precision", name, dataset, metrics)
    return rows


def _rank(pool: Pool, reranker: Reranker) -> tuple[FloatArray, NDArray[np.float64]]:
    """Return the raw score of every pair, and the measure of every query."""
    rankings = list(reranker.rank_many(pool.requests))
    raw = [
        document.raw_score
        for ranking in rankings
        for document in sorted(ranking, key=lambda document: document.index)
    ]
    return np.array(raw, dtype=np.float32), pool.evaluate(rankings, MEASURE)


def sentence_transformers_ranker(folder: Path) -> Callable[[str, list[str]], Any]:
    """Return ``CrossEncoder.predict`` in float32; the weights of ``mini`` are in float16."""
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    return lambda query, texts: model.predict(
        [(query, text) for text in texts], show_progress_bar=False
    )


def measure_precision(sets: Path, *, queries: int = 250, rounds: int = 20) -> Iterator[list[Row]]:
    """Yield the speed of every precision that this CPU supports, then the quality per set."""
    fast_bfloat16 = fast_bfloat16_on_cpu()
    rerankers = {
        name: Reranker(MINI, **settings).warm_up()
        for name, settings in PRECISIONS.items()
        if fast_bfloat16 or settings["dtype"] != "bfloat16"
    }
    rankers = {PEER: sentence_transformers_ranker(cross_encoder_folder())}
    rankers |= {name: reranker.rank for name, reranker in rerankers.items()}
    yield speed_rows(rankers, make_pool(sets / "nq-gold", queries), rounds)
    reduced = {name: rerankers[name] for name in rerankers if "float32" not in name}
    for dataset in SETS:
        pool = make_pool(sets / dataset, queries)
        yield precision_rows(pool, rerankers[EXACT], reduced, dataset)
