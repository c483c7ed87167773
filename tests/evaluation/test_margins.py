"""Margins: what a sure first stage saves, and what it costs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rerank_plugins import Cascade, Reranker, Stage
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.tuning import LabeledQuery, fit_early_exit_margin
from rerank_plugins.testing import FakeCrossEncoder


def number(_: str, document: str) -> float:
    """Return the first of the two numbers in a text."""
    return float(document.split(maxsplit=1)[0])


def truth(_: str, document: str) -> float:
    return float(document.split()[1])


CHEAP, DEAR = FakeCrossEncoder(number), FakeCrossEncoder(truth)
CASCADE = Cascade([(Reranker(CHEAP), 3), Reranker(DEAR)])


def labeled(seed: int, count: int, reliable: float) -> list[LabeledQuery]:
    """Return queries whose cheap stage errs where its lead is below ``reliable``."""
    rng = random.Random(seed)  # noqa: S311
    made = []
    for _ in range(count):
        gap = rng.uniform(0, 2)
        right = gap >= reliable or rng.random() < 0.5
        good, bad = (10 + gap, 10) if right else (10, 10 + gap)
        texts, grades = [f"{bad} 0", f"{good} 1", "1 0"], [0, 1, 0]
        made.append(LabeledQuery(query="q", documents=texts, grades=grades))
    return made


def test_the_margin_is_where_the_cheap_stage_becomes_reliable() -> None:
    fitted = fit_early_exit_margin(CASCADE, labeled(0, 200, reliable=1), loss=0.0)
    assert fitted.margin == pytest.approx(1, abs=0.1)
    assert fitted.loss == 0
    assert fitted.stopped == pytest.approx(0.5, abs=0.1)
    assert fitted.held_out_loss < 0.01
    assert fitted.held_out_stopped == pytest.approx(fitted.stopped, abs=0.05)
    assert fitted.cascade.stages[0].early_exit_margin == fitted.margin
    assert CASCADE.stages[0].early_exit_margin is None


def test_the_loss_reported_is_that_of_the_cascade_returned() -> None:
    queries = labeled(1, 100, reliable=1)
    fitted = fit_early_exit_margin(CASCADE, queries, loss=0.05, measure="RR@10")
    assert 0 < fitted.loss <= 0.05
    DEAR.batches.clear()
    reranker = Reranker(fitted.cascade)
    gained = [
        1 / (1 + [document.index for document in ranking].index(1))
        for ranking in reranker.rank_many((one.query, one.documents) for one in queries)
    ]
    assert 1 - sum(gained) / len(gained) == pytest.approx(fitted.loss)
    assert sum(map(len, DEAR.batches)) == round((1 - fitted.stopped) * len(queries)) * 3


def test_a_larger_bound_stops_more() -> None:
    queries = labeled(2, 100, reliable=1.5)
    stopped = [fit_early_exit_margin(CASCADE, queries, loss=loss).stopped for loss in (0, 0.03, 1)]
    assert stopped == sorted(stopped)
    assert stopped[0] < stopped[1] < stopped[2] == 1


def test_a_stage_that_is_always_wrong_never_stops() -> None:
    wrong = [LabeledQuery(query="q", documents=["3 0", "1 1"], grades=[0, 1]) for _ in range(10)]
    fitted = fit_early_exit_margin(CASCADE, wrong)
    assert (fitted.margin, fitted.stopped, fitted.loss) == (None, 0, 0)
    assert fitted.cascade.stages == CASCADE.stages


def test_a_margin_that_is_set_is_passed_over_and_later_stages_are_kept() -> None:
    stages = [
        Stage(Reranker(CHEAP), 3),
        Stage(Reranker(CHEAP), 2, early_exit_margin=0.5),
        Reranker(DEAR),
    ]
    queries = labeled(3, 60, reliable=1)
    set_before = Cascade(stages)
    fitted = fit_early_exit_margin(set_before, queries, loss=0, stage=1)
    again = fit_early_exit_margin(
        Cascade([*stages[:1], (Reranker(CHEAP), 2), stages[2]]), queries, 0, stage=1
    )
    assert fitted.margin == again.margin
    assert fitted.cascade.stages[1].keep == 2


def test_queries_that_ended_before_the_stage_do_not_count_for_it() -> None:
    first = Stage(Reranker(CHEAP), 3, early_exit_margin=0.5)
    before = Cascade([first, (Reranker(CHEAP), 3), Reranker(DEAR)])
    queries = labeled(4, 100, reliable=0)
    fitted = fit_early_exit_margin(before, queries, loss=0, stage=1)
    firsts = [[float(text.split()[0]) for text in one.documents[:2]] for one in queries]
    short = [abs(one - other) for one, other in firsts]
    assert fitted.margin == pytest.approx(min(short), abs=1e-5)
    assert fitted.stopped == pytest.approx(sum(gap < 0.5 for gap in short) / len(short))


def test_a_document_alone_says_nothing_about_margins() -> None:
    alone = [LabeledQuery(query="q", documents=["1 1"], grades=[1])] * 5
    wrong = [LabeledQuery(query="q", documents=["3 0", "1 1"], grades=[0, 1])] * 5
    fitted = fit_early_exit_margin(CASCADE, [*alone, *wrong], loss=0)
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
def test_bad_input_is_refused(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_early_exit_margin(CASCADE, **{"queries": labeled(0, 8, 1), **settings})
