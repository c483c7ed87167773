"""Early-exit margins: queries that end early, and the loss."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rerank_plugins import Cascade, Reranker, Stage
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.tuning import LabeledQuery, fit_early_exit_margin
from rerank_plugins.testing import FakeCrossEncoder


def first_number(_: str, document: str) -> float:
    """Return the first of the two numbers in a text."""
    return float(document.split(maxsplit=1)[0])


def second_number(_: str, document: str) -> float:
    """Return the second number, which is the relevance."""
    return float(document.split()[1])


CHEAP, EXPENSIVE = FakeCrossEncoder(first_number), FakeCrossEncoder(second_number)
CASCADE = Cascade([(Reranker(CHEAP), 3), Reranker(EXPENSIVE)])


def labeled(seed: int, count: int, reliable: float) -> list[LabeledQuery]:
    """Return queries whose cheap stage is unreliable if its margin is below ``reliable``."""
    rng = random.Random(seed)  # noqa: S311
    queries = []
    for _ in range(count):
        gap = rng.uniform(0, 2)
        right = gap >= reliable or rng.random() < 0.5
        good, bad = (10 + gap, 10) if right else (10, 10 + gap)
        texts, grades = [f"{bad} 0", f"{good} 1", "1 0"], [0, 1, 0]
        queries.append(LabeledQuery(query="q", documents=texts, grades=grades))
    return queries


def test_the_margin_is_where_the_cheap_stage_becomes_reliable() -> None:
    fitted = fit_early_exit_margin(CASCADE, labeled(0, 200, reliable=1), loss=0.0)
    assert fitted.margin == pytest.approx(1, abs=0.1)
    assert fitted.loss == 0
    assert fitted.stopped == pytest.approx(0.5, abs=0.1)
    assert fitted.held_out_loss < 0.01
    assert fitted.held_out_stopped == pytest.approx(fitted.stopped, abs=0.05)
    assert fitted.cascade.stages[0].early_exit_margin == fitted.margin
    assert CASCADE.stages[0].early_exit_margin is None


def test_the_reported_loss_is_the_loss_of_the_returned_cascade() -> None:
    queries = labeled(1, 100, reliable=1)
    fitted = fit_early_exit_margin(CASCADE, queries, loss=0.05, measure="RR@10")
    assert 0 < fitted.loss <= 0.05
    EXPENSIVE.batches.clear()
    reranker = Reranker(fitted.cascade)
    reciprocal_ranks = [
        1 / (1 + [document.index for document in ranking].index(1))
        for ranking in reranker.rank_many((query.query, query.documents) for query in queries)
    ]
    assert 1 - sum(reciprocal_ranks) / len(reciprocal_ranks) == pytest.approx(fitted.loss)
    assert sum(map(len, EXPENSIVE.batches)) == round((1 - fitted.stopped) * len(queries)) * 3


def test_a_larger_bound_ends_more_queries_early() -> None:
    queries = labeled(2, 100, reliable=1.5)
    stopped = [fit_early_exit_margin(CASCADE, queries, loss=loss).stopped for loss in (0, 0.03, 1)]
    assert stopped == sorted(stopped)
    assert stopped[0] < stopped[1] < stopped[2] == 1


def test_no_query_ends_at_a_stage_that_is_always_wrong() -> None:
    misleading = [
        LabeledQuery(query="q", documents=["3 0", "1 1"], grades=[0, 1]) for _ in range(10)
    ]
    fitted = fit_early_exit_margin(CASCADE, misleading)
    assert (fitted.margin, fitted.stopped, fitted.loss) == (None, 0, 0)
    assert fitted.cascade.stages == CASCADE.stages


def test_an_existing_margin_is_ignored_and_later_stages_are_kept() -> None:
    stages = [
        Stage(Reranker(CHEAP), 3),
        Stage(Reranker(CHEAP), 2, early_exit_margin=0.5),
        Reranker(EXPENSIVE),
    ]
    queries = labeled(3, 60, reliable=1)
    with_margin = Cascade(stages)
    fitted = fit_early_exit_margin(with_margin, queries, loss=0, stage=1)
    again = fit_early_exit_margin(
        Cascade([*stages[:1], (Reranker(CHEAP), 2), stages[2]]), queries, 0, stage=1
    )
    assert fitted.margin == again.margin
    assert fitted.cascade.stages[1].keep == 2


def test_queries_that_ended_before_the_stage_are_ignored() -> None:
    first = Stage(Reranker(CHEAP), 3, early_exit_margin=0.5)
    before = Cascade([first, (Reranker(CHEAP), 3), Reranker(EXPENSIVE)])
    queries = labeled(4, 100, reliable=0)
    fitted = fit_early_exit_margin(before, queries, loss=0, stage=1)
    scores = [[first_number("", text) for text in query.documents[:2]] for query in queries]
    gaps = [abs(first - second) for first, second in scores]
    assert fitted.margin == pytest.approx(min(gaps), abs=1e-5)
    assert fitted.stopped == pytest.approx(sum(gap < 0.5 for gap in gaps) / len(gaps))


def test_queries_with_one_document_are_ignored() -> None:
    single = [LabeledQuery(query="q", documents=["1 1"], grades=[1])] * 5
    misleading = [LabeledQuery(query="q", documents=["3 0", "1 1"], grades=[0, 1])] * 5
    fitted = fit_early_exit_margin(CASCADE, [*single, *misleading], loss=0)
    assert (fitted.margin, fitted.stopped, fitted.held_out_stopped) == (None, 0, 0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"loss": -1}, ConfigurationError, "loss is -1"),
        ({"stage": 1}, ConfigurationError, "before the last one, 1"),
        ({"folds": 1}, ConfigurationError, "folds is 1"),
        ({"folds": 99}, InvalidInputError, "8 queries for 99 folds"),
        (
            {"queries": [LabeledQuery(query="q", documents=["1 1"], grades=[])] * 8},
            InvalidInputError,
            "0 grades",
        ),
        (
            {"queries": [LabeledQuery(query="q", documents=[], grades=[])] * 8},
            InvalidInputError,
            "at least one",
        ),
    ],
)
def test_invalid_input_is_rejected(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_early_exit_margin(CASCADE, **{"queries": labeled(0, 8, 1), **settings})
