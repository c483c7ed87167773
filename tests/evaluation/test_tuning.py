"""The fitted weight of a fusion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rerank_plugins.config import FusionMethod
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.tuning import LabeledQuery, fit_fusion_weight, fused_quality


def queries(count: int, cross_encoder: float, first_stage: float) -> list[LabeledQuery]:
    """One relevant document in ten, seen by each stage through noise of that size."""
    rng = np.random.default_rng(9)
    made = []
    for _ in range(count):
        grades = [0] * 10
        grades[int(rng.integers(10))] = 1
        seen = [
            np.array(grades) + rng.normal(0, noise, 10) for noise in (cross_encoder, first_stage)
        ]
        made.append(LabeledQuery(grades=grades, raw_scores=seen[0], retrieval_scores=seen[1]))
    return made


@pytest.mark.parametrize("method", ["rrf", "weighted"])
def test_two_equally_good_rankings_are_better_together(method: FusionMethod) -> None:
    found = fit_fusion_weight(queries(300, 0.7, 0.7), method=method)
    assert 0.25 <= found.weight <= 0.75
    assert found.clear
    assert found.held_out > max(found.retrieval, found.cross_encoder)
    assert "not clearly" not in str(found)
    assert str(found).startswith(f"weight {found.weight:g}: nDCG@10 0.")


@pytest.mark.parametrize(("noises", "end"), [((0.3, 50.0), 1.0), ((50.0, 0.3), 0.0)])
def test_a_ranking_of_chance_is_left_out(noises: tuple[float, float], end: float) -> None:
    found = fit_fusion_weight(queries(200, *noises))
    assert found.weight == pytest.approx(end, abs=0.2)
    assert not found.clear
    assert "not clearly better than both" in str(found)


def test_the_ends_are_the_two_rankings_alone() -> None:
    some = queries(50, 0.8, 0.6)
    found = fit_fusion_weight(some, measure="RR@10")
    raw = np.array([query.raw_scores for query in some])
    right = np.array([query.grades for query in some]).argmax(axis=1)[:, None]
    ranks = 1 + (raw > np.take_along_axis(raw, right, axis=1)).sum(axis=1)
    assert found.cross_encoder == pytest.approx((1 / ranks).mean())
    assert found.retrieval == fused_quality(some, "rrf", 0, "RR@10").mean()
    assert found == fit_fusion_weight(some, measure="RR@10")


def test_equally_good_weights_give_the_middle_one() -> None:
    same = [LabeledQuery(grades=[1, 0], raw_scores=[2.0, 1.0]) for _ in range(5)]
    assert fit_fusion_weight(same).weight == 0.5


def test_what_the_first_stage_missed_counts() -> None:
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
def test_bad_queries_are_refused(query: LabeledQuery, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fit_fusion_weight([query] * 5)


@pytest.mark.parametrize("folds", [0, 1, True, 2.0])
def test_bad_folds_are_refused(folds: Any) -> None:
    with pytest.raises(ConfigurationError, match="folds is"):
        fit_fusion_weight(queries(5, 1, 1), folds=folds)


def test_fewer_queries_than_folds_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="3 queries for 5 folds"):
        fit_fusion_weight(queries(3, 1, 1))
