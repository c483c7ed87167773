"""Fitted fusion weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rerank_plugins.config import FusionMethod
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.tuning import LabeledQuery, fit_fusion_weight, fused_quality


def queries(count: int, cross_encoder: float, retriever: float) -> list[LabeledQuery]:
    """Return queries with one relevant document in ten and scores with noise of these sizes."""
    rng = np.random.default_rng(9)
    labeled = []
    for _ in range(count):
        grades = [0] * 10
        grades[int(rng.integers(10))] = 1
        raw, retrieval = (
            np.array(grades) + rng.normal(0, noise, 10) for noise in (cross_encoder, retriever)
        )
        labeled.append(LabeledQuery(grades=grades, raw_scores=raw, retrieval_scores=retrieval))
    return labeled


@pytest.mark.parametrize("method", ["rrf", "weighted"])
def test_a_fusion_of_equally_good_rankings_is_better_than_both(method: FusionMethod) -> None:
    fitted = fit_fusion_weight(queries(300, 0.7, 0.7), method=method)
    assert 0.25 <= fitted.weight <= 0.75
    assert fitted.clear
    assert fitted.held_out > max(fitted.retrieval, fitted.cross_encoder)
    assert "not clearly" not in str(fitted)
    assert str(fitted).startswith(f"weight {fitted.weight:g}: nDCG@10 0.")


@pytest.mark.parametrize(("noises", "end"), [((0.3, 50.0), 1.0), ((50.0, 0.3), 0.0)])
def test_a_random_ranking_has_no_weight(noises: tuple[float, float], end: float) -> None:
    fitted = fit_fusion_weight(queries(200, *noises))
    assert fitted.weight == pytest.approx(end, abs=0.2)
    assert not fitted.clear
    assert "not clearly better than both" in str(fitted)


def test_weights_0_and_1_are_the_two_rankings_alone() -> None:
    labeled = queries(50, 0.8, 0.6)
    fitted = fit_fusion_weight(labeled, measure="RR@10")
    raw = np.array([query.raw_scores for query in labeled])
    relevant = np.array([query.grades for query in labeled]).argmax(axis=1)[:, None]
    ranks = 1 + (raw > np.take_along_axis(raw, relevant, axis=1)).sum(axis=1)
    assert fitted.cross_encoder == pytest.approx((1 / ranks).mean())
    assert fitted.retrieval == fused_quality(labeled, "rrf", 0, "RR@10").mean()
    assert fitted == fit_fusion_weight(labeled, measure="RR@10")


def test_the_middle_weight_is_chosen_among_equally_good_ones() -> None:
    labeled = [LabeledQuery(grades=[1, 0], raw_scores=[2.0, 1.0]) for _ in range(5)]
    assert fit_fusion_weight(labeled).weight == 0.5


def test_documents_that_were_not_retrieved_count() -> None:
    query = LabeledQuery(grades=[1, 0], raw_scores=[1.0, 2.0], missed=[1])
    ideal = 1 + 1 / math.log2(3)
    assert fused_quality([query], "weighted", 0) == pytest.approx([1 / ideal])
    assert fused_quality([query], "weighted", 1) == pytest.approx([1 / math.log2(3) / ideal])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (LabeledQuery(grades=[1, 0], raw_scores=[1.0]), "query 0 has 1 scores and 2 grades"),
        (LabeledQuery(grades=[0], raw_scores=[1.0]), "query 0 has no relevant document"),
        (
            LabeledQuery(grades=[1], raw_scores=[1.0], retrieval_scores=[1.0, 2.0]),
            "1 raw scores and 2",
        ),
        (LabeledQuery(grades=[1], query="q", documents=["d"]), "query 0 has 0 scores and 1 grades"),
    ],
)
def test_invalid_queries_are_rejected(query: LabeledQuery, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fit_fusion_weight([query] * 5)


@pytest.mark.parametrize("folds", [0, 1, True, 2.0])
def test_invalid_folds_are_rejected(folds: Any) -> None:
    with pytest.raises(ConfigurationError, match="folds is"):
        fit_fusion_weight(queries(5, 1, 1), folds=folds)


def test_fewer_queries_than_folds_are_rejected() -> None:
    with pytest.raises(InvalidInputError, match="3 queries for 5 folds"):
        fit_fusion_weight(queries(3, 1, 1))
