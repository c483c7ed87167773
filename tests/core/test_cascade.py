"""Cascades: selection, order, deadlines and cost."""

from __future__ import annotations

import asyncio
import math
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import BiEncoder, Cascade, Ranking, Reranker, Stage, Windows
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.errors import ConfigurationError, InferenceError
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.types import NOT_SCORED, Scorer, ScoringRequest, ScoringResult
from tests.helpers.strategies import documents, queries


def by_length(query: str, document: str) -> float:
    return float(len(document))


def slow_by_length(seconds: float) -> Callable[[str, str], float]:
    def score(query: str, document: str) -> float:
        time.sleep(seconds)
        return by_length(query, document)

    return score


CHEAP, EXPENSIVE = FakeCrossEncoder(by_length), FakeCrossEncoder()
CALIBRATOR = Calibrator.fit(np.linspace(-3, 3, 40), np.arange(40) > 20, model=EXPENSIVE.identity)
TEXTS = ["rain", "sun and wind", "rain and sun", "hail", "sun"]


def order(ranking: Ranking) -> list[int]:
    return [document.index for document in ranking]


def indices_and_scores(ranking: Ranking) -> list[tuple[int, float]]:
    return [(document.index, document.raw_score) for document in ranking]


def comparable(ranking: Ranking) -> dict[str, Any]:
    """Return comparable values: None instead of NaN, and no times."""
    return {**ranking.to_dict(), "stats": ranking.stats}


def pair_count(fake: FakeCrossEncoder) -> int:
    return sum(map(len, fake.batches))


# --- properties -----------------------------------------------------------------------------


@given(queries, documents)
def test_a_cascade_that_keeps_all_documents_equals_its_last_stage(
    query: str, texts: list[str]
) -> None:
    expected = Reranker(EXPENSIVE).rank(query, texts)
    stages = [Reranker(CHEAP), BiEncoder(FakeBiEncoder()), Reranker(EXPENSIVE)]
    for keep in (None, max(len(texts), 1)):
        ranking = Cascade([*((stage, keep) for stage in stages[:-1]), stages[-1]]).rank(
            query, texts
        )
        assert ranking.documents == expected.documents
        assert (ranking.model, ranking.status) == (expected.model, "complete")


@given(queries, documents, st.integers(1, 5), st.integers(1, 5))
def test_all_documents_are_returned_and_stages_score_at_most_keep(
    query: str, texts: list[str], first: int, second: int
) -> None:
    for fake in (CHEAP, EXPENSIVE):
        fake.batches.clear()
    words = FakeCrossEncoder(lambda _, text: len(text.split()))
    cascade = Cascade([(Reranker(CHEAP), first), (Reranker(words), second), Reranker(EXPENSIVE)])
    ranking = cascade.rank(query, texts)
    assert sorted(order(ranking)) == list(range(len(texts)))
    assert pair_count(CHEAP) == len(set(texts))
    assert pair_count(words) <= first
    assert pair_count(EXPENSIVE) <= min(first, second)
    final = [document.scored for document in ranking]
    assert final == sorted(final, reverse=True)
    assert sum(final) == min(first, second, len(texts)) == ranking.stats.scored
    assert ranking.stats.pairs == pair_count(CHEAP) + pair_count(words) + pair_count(EXPENSIVE)


@given(queries, documents, st.integers(1, 5))
def test_an_infinite_deadline_equals_no_deadline(query: str, texts: list[str], keep: int) -> None:
    cascade = Cascade([Stage(Reranker(CHEAP), keep, time_fraction=0.5), Reranker(EXPENSIVE)])
    task = ScoringRequest(query, texts)
    untimed, timed = (cascade.score_requests([task], limit)[0] for limit in (None, math.inf))
    np.testing.assert_array_equal(untimed.scores, timed.scores)
    np.testing.assert_array_equal(untimed.stage, timed.stage)
    assert (untimed.status, timed.status) == ("complete", "complete")
    distant = cascade.rank(query, texts, deadline_ms=1e9)
    assert comparable(distant) == comparable(cascade.rank(query, texts))


@given(st.lists(st.tuples(queries, documents), max_size=4), st.integers(1, 3))
def test_rank_many_equals_separate_calls(requests: list[tuple[str, list[str]]], keep: int) -> None:
    cascade = Cascade([Stage(Reranker(CHEAP), keep, early_exit_margin=2), Reranker(EXPENSIVE)])
    together = Reranker(cascade).rank_many(requests)
    assert list(map(comparable, together)) == [
        comparable(cascade.rank(*request)) for request in requests
    ]


# --- order ----------------------------------------------------------------------------------


def test_documents_dropped_by_a_stage_keep_its_order() -> None:
    cascade = Cascade([(Reranker(CHEAP), 2), Reranker(EXPENSIVE)])
    ranking = cascade.rank("rain and sun", TEXTS)
    # The last stage reorders the two longest texts; the others stay sorted by length.
    assert order(ranking) == [2, 1, 0, 3, 4]
    assert [document.scored for document in ranking] == [True, True, False, False, False]
    assert math.isnan(ranking[2].raw_score)
    (answer,) = cascade.score_requests([ScoringRequest("rain and sun", TEXTS)])
    assert answer.stage.tolist() == [0, 1, 1, 0, 0]
    assert answer.scores[[0, 3, 4]].tolist() == [4, 4, 3]


def test_truncated_and_scale_come_from_the_last_stage() -> None:
    short = FakeCrossEncoder(by_length, max_length=5)
    cascade = Cascade([(Reranker(short), 1), Reranker(EXPENSIVE)])
    ranking = cascade.rank("rain", ["sun", "wind wind wind", "rain rain rain rain"])
    assert [document.truncated for document in ranking] == [False, True, False]
    assert ranking.model == EXPENSIVE.identity
    assert 0 < ranking[0].relevance_score < 1


def test_windows_come_from_the_last_stage() -> None:
    long = Reranker(FakeCrossEncoder(max_length=12), long_documents=Windows(overlap=0))
    cascade = Cascade([(Reranker(CHEAP), 1), long])
    text = "hail " * 10 + "rain"
    ranking = cascade.rank("rain", [text, "rain"])
    window = ranking[0].window
    assert window is not None
    assert "rain" in text[window.start : window.end]
    assert ranking[1].window is None


def test_requests_of_one_call_share_batches() -> None:
    fakes = [FakeCrossEncoder(by_length), FakeCrossEncoder()]
    cascade = Cascade([(Reranker(fakes[0]), 2), Reranker(fakes[1])])
    Reranker(cascade).rank_many([(query, TEXTS) for query in ("rain", "sun", "hail")])
    assert [len(fake.batches) for fake in fakes] == [1, 1]


async def test_async_equals_sync_and_does_not_block() -> None:
    slow = FakeCrossEncoder(slow_by_length(0.1))
    cascade = Cascade([(BiEncoder(FakeBiEncoder()), 3), Reranker(slow)])
    lags = []

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - start)

    watcher = asyncio.create_task(watch())
    ranking = await cascade.arank("rain", TEXTS)
    watcher.cancel()
    assert len(lags) > 10
    assert max(lags) < 0.1
    assert comparable(ranking) == comparable(cascade.rank("rain", TEXTS))
    assert await cascade.arank("rain", [], top_n=2) == cascade.rank("rain", [], top_n=2)


# --- deadlines ------------------------------------------------------------------------------


class RecordingScorer:
    """Records time limits and texts; optionally scores only the first documents."""

    def __init__(self, scored: int | None = None) -> None:
        self.time_limits: list[float] = []
        self.received: list[list[str]] = []
        self._scored = scored

    def score_requests(self, tasks: Any, deadline: float | None = None) -> list[ScoringResult]:
        if deadline is not None:
            self.time_limits.append(deadline - time.perf_counter())
        self.received += [task.texts for task in tasks]
        answers = []
        for task in tasks:
            answer = Reranker(CHEAP).scorer.score_requests([task])[0]
            answer.scores[self._scored :] = np.nan if self._scored is not None else answer.scores
            if self._scored is not None and self._scored < len(task.texts):
                answer.stage[self._scored :] = NOT_SCORED
                object.__setattr__(answer, "status", "partial")
            answers.append(answer)
        return answers

    async def ascore_requests(
        self, tasks: Any, deadline: float | None = None
    ) -> list[ScoringResult]:
        return self.score_requests(tasks, deadline)

    def warm_up(self) -> object:
        return self

    def close(self) -> None:
        """Hold nothing."""


def test_time_fraction_applies_to_the_remaining_time() -> None:
    stages = [RecordingScorer(), RecordingScorer(), RecordingScorer()]
    cascade = Cascade(
        [Stage(stages[0], time_fraction=0.25), Stage(stages[1], time_fraction=0.5), stages[2]]
    )
    cascade.rank("rain", TEXTS, deadline_ms=60_000)
    limits_s = [stage.time_limits[0] for stage in stages]
    assert limits_s == pytest.approx([15, 30, 60], rel=0.05)


def test_documents_unscored_by_a_stage_continue_after_the_scored_ones() -> None:
    last = RecordingScorer()
    ranking = Cascade([(RecordingScorer(2), 3), last]).rank("rain", TEXTS)
    assert last.received == [["sun and wind", "rain", "rain and sun"]]
    assert ranking.status == "partial"
    assert order(ranking) == [1, 2, 0, 3, 4]


def test_without_time_for_the_last_stage_the_previous_stage_orders() -> None:
    """Scores of an earlier stage are not returned, thresholded or calibrated."""
    cascade = Cascade([(Reranker(CHEAP), 3), RecordingScorer(0)])
    ranking = cascade.rank("rain", TEXTS)
    assert order(ranking) == [1, 2, 0, 3, 4]
    assert (ranking.status, ranking.stats.scored, ranking.model) == ("partial", 0, None)
    assert not any(document.scored for document in ranking)
    assert all(math.isnan(document.relevance_score) for document in ranking)
    for policy in ({"score_threshold": 1e9}, {"activation": CALIBRATOR}):
        assert order(Reranker(cascade, **policy).rank("rain", TEXTS)) == [1, 2, 0, 3, 4]


def test_without_any_time_the_input_order_is_kept() -> None:
    ranking = Cascade([RecordingScorer(0), RecordingScorer(0)]).rank("rain", TEXTS)
    assert order(ranking) == list(range(len(TEXTS)))
    assert (ranking.status, ranking.stats.scored) == ("partial", 0)


def test_a_slow_last_stage_scores_the_best_documents_of_the_first() -> None:
    slow = FakeCrossEncoder(slow_by_length(0.05), batch_tokens=8)
    texts = [f"{'x' * length}" for length in range(1, 60)]
    ranking = Cascade([Reranker(CHEAP), Reranker(slow)]).rank("rain", texts, deadline_ms=400)
    assert ranking.status == "partial"
    best = [document.index for document in ranking if document.scored]
    assert 0 < len(best) < len(texts)
    assert set(best) == set(range(len(texts) - len(best), len(texts)))
    assert order(ranking)[len(best) :] == list(range(len(texts) - len(best) - 1, -1, -1))


# --- early exit -----------------------------------------------------------------------------


def test_a_score_margin_ends_the_cascade_early() -> None:
    expensive = FakeCrossEncoder()
    cascade = Cascade([Stage(Reranker(CHEAP), 2, early_exit_margin=5), Reranker(expensive)])
    early = cascade.rank("rain", ["rain", "a text much longer"])
    assert (indices_and_scores(early), early.status) == ([(1, 18), (0, 4)], "complete")
    assert pair_count(expensive) == 0
    close = cascade.rank("rain", ["rain", "snow!"])
    assert indices_and_scores(close) == indices_and_scores(
        Reranker(EXPENSIVE).rank("rain", ["rain", "snow!"])
    )
    at_margin = cascade.rank("rain", ["rain", "four+five"])
    assert order(at_margin) == [1, 0]


def test_a_stage_out_of_time_never_exits_early() -> None:
    last = RecordingScorer()
    Cascade([Stage(RecordingScorer(1), early_exit_margin=0), last]).rank("rain", TEXTS)
    assert len(last.received) == 1


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"top_n": 3}, "top_n"),
        ({"score_threshold": 0.5}, "score_threshold"),
        ({"activation": "none"}, "activation"),
        ({"deadline_ms": 10}, "deadline_ms"),
        ({"fusion": "rrf"}, "fusion"),
        ({"on_error": "passthrough"}, "on_error"),
        ({"dedup": 0.9}, "dedup"),
    ],
)
def test_ranking_settings_of_a_stage_are_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"sets {setting};.*around the cascade"):
        Stage(Reranker(EXPENSIVE, **settings))


def test_a_calibrator_of_a_stage_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sets activation"):
        Stage(Reranker(EXPENSIVE, activation=CALIBRATOR))


@pytest.mark.parametrize("policy", [{"score_threshold": 0.5}, {"activation": CALIBRATOR}])
def test_scores_of_two_scales_are_not_compared(policy: dict[str, Any]) -> None:
    early = Cascade([Stage(Reranker(CHEAP), 2, early_exit_margin=5), Reranker(EXPENSIVE)])
    with pytest.raises(ConfigurationError, match=r"(score_threshold|a calibrator) is set.*margin"):
        Reranker(early, **policy)
    Reranker(Cascade([(Reranker(CHEAP), 2), Reranker(EXPENSIVE)]), **policy).rank("rain", TEXTS)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "no stages"),
        (["mini"], "is str; give a Reranker"),
        ([EXPENSIVE], r"FakeCrossEncoder.*Reranker\('mini'\)"),
        ([(Reranker(EXPENSIVE), 3)], "keep of the last stage is 3"),
        ([Stage(Reranker(EXPENSIVE), early_exit_margin=1)], "margin of the last stage"),
        ([Cascade([Reranker(EXPENSIVE)]), Reranker(EXPENSIVE)], "stage 0 is a cascade"),
        ([(Reranker(EXPENSIVE), 0), Reranker(EXPENSIVE)], "keep is 0"),
        ([(Reranker(EXPENSIVE), True), Reranker(EXPENSIVE)], "keep is True"),
        ([(Reranker(EXPENSIVE), 1, 1.5), Reranker(EXPENSIVE)], "time_fraction is 1.5"),
        ([(Reranker(EXPENSIVE), 1, 0), Reranker(EXPENSIVE)], "time_fraction is 0"),
        ([(Reranker(EXPENSIVE), 1, 1, -1), Reranker(EXPENSIVE)], "margin is -1"),
        ([(), Reranker(EXPENSIVE)], "has 0 elements"),
        ([(Reranker(EXPENSIVE), 1, 1, 1, 1), Reranker(EXPENSIVE)], "has 5 elements"),
    ],
)
def test_invalid_stages_are_refused(stages: list[Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Cascade(stages)


def test_model_settings_are_refused_for_a_cascade() -> None:
    with pytest.raises(ConfigurationError, match="Set it on the stages"):
        Reranker(Cascade([Reranker(EXPENSIVE)]), max_length=64)


def test_a_cascade_is_a_scorer_that_loads_and_closes_its_models() -> None:
    fakes = [FakeCrossEncoder(by_length), FakeCrossEncoder()]
    with Cascade([Reranker(fake) for fake in fakes]) as cascade:
        assert isinstance(cascade, Scorer)
        assert order(cascade.rank("rain", TEXTS)) == order(Reranker(EXPENSIVE).rank("rain", TEXTS))
    assert [fake.closed for fake in fakes] == [True, True]


def test_an_error_of_a_stage_is_handled_by_the_reranker() -> None:
    def fail(query: str, document: str) -> float:
        message = "broken"
        raise ValueError(message)

    broken = Cascade([(Reranker(CHEAP), 2), Reranker(FakeCrossEncoder(fail))])
    with pytest.raises(InferenceError, match="broken"):
        broken.rank("rain", TEXTS)
    ranking = Reranker(broken, on_error="passthrough").rank("rain", TEXTS)
    assert (order(ranking), ranking.status) == ([0, 1, 2, 3, 4], "failed")


def test_a_cascade_of_named_models_pickles() -> None:
    cascade = Cascade([(BiEncoder(), 2), Reranker()])
    restored = pickle.loads(pickle.dumps(cascade))  # noqa: S301
    texts = ["It rains.", "Goethe wrote Faust.", "Faust is a play."]
    query = "Who wrote Faust?"
    assert comparable(restored.rank(query, texts)) == comparable(cascade.rank(query, texts))
