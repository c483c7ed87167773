"""Requests with a deadline: the first items that fit, answered in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import EngineClosedError, InferenceError, InvalidInputError
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers.engines import (
    FaultyCrossEncoder,
    GatedCrossEncoder,
    engine_of,
    expected,
    out_of_memory_beyond,
    pairs,
    raise_for,
)

SLACK_S = 1.0
"""How late an answer may be on a loaded machine; without a deadline it would take 30 s."""


class SlowCrossEncoder(FakeCrossEncoder):
    """Takes a time per batch and per token; counts the items it tokenized.

    Attributes:
        prepared: Number of tokenized items.
    """

    prepared = 0

    def __init__(self, batch_s: float = 0.002, token_s: float = 0.0001, **options: int) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._cost_s = batch_s, token_s

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        self.prepared += len(items)
        return super().prepare(items, max_length)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        batch_s, token_s = self._cost_s
        width = max(item.tokens for item in batch)
        time.sleep(batch_s + token_s * width * len(batch))
        return super().run(batch)


def within(seconds: float) -> float:
    return time.perf_counter() + seconds


def assert_correct(output: RequestOutput, items: list[TextPair]) -> None:
    """Check that results that are done are right, and that all others are marked."""
    done = output.done
    assert done.shape == output.values.shape == (len(items),)
    np.testing.assert_allclose(output.values[done], expected(items)[done])
    assert np.isnan(output.values[~done]).all()
    assert not output.tokens[~done].any()
    assert (output.tokens[done] > 0).all()


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.integers(1, 300),
    st.sampled_from([float("inf"), 1e12, 1e6]),
)
def test_a_distant_deadline_equals_none(words: list[int], budget: int, seconds: float) -> None:
    items = [TextPair("q", f"q {number} " + "w " * count) for number, count in enumerate(words)]
    with engine_of(FakeCrossEncoder(batch_tokens=budget)) as engine:
        without, far = engine.compute(items), engine.compute(items, deadline=within(seconds))
    assert without.done.all()
    for plain, timed in zip(
        (without.values, without.tokens, without.truncated, without.done),
        (far.values, far.tokens, far.truncated, far.done),
        strict=True,
    ):
        np.testing.assert_array_equal(plain, timed)


@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_the_first_items_that_fit_are_done(seconds: float) -> None:
    backend = SlowCrossEncoder()
    items = pairs("query", 1_000)
    with engine_of(backend) as engine:
        engine.compute(items[:40])  # data for the cost model
        prepared = backend.prepared
        start = time.perf_counter()
        output = engine.compute(items, deadline=start + seconds)
        taken = time.perf_counter() - start
        stats = engine.stats()
    count = int(output.done.sum())
    assert 0 < count < len(items)
    assert output.done[:count].all()
    assert_correct(output, items)
    assert taken < seconds + SLACK_S
    assert stats.expired == 1
    assert stats.queued_tokens == 0
    assert backend.prepared - prepared < 300  # tokenizing all would delay other requests


def test_the_answer_comes_as_soon_as_nothing_more_fits() -> None:
    """The second item takes longer than the time left: answer now, not at the deadline."""
    backend = SlowCrossEncoder(batch_s=0.0, token_s=0.006)
    with engine_of(backend) as engine:
        for _ in range(5):
            engine.compute(pairs("learn", 1, words=5))
        items = [*pairs("short", 1, words=5), *pairs("long", 20, words=450)]
        start = time.perf_counter()
        output = engine.compute(items, deadline=start + 2.7)
        taken = time.perf_counter() - start
    assert output.done.tolist() == [True] + [False] * 20
    assert taken < 1.5


def test_a_first_item_is_computed_even_if_it_is_not_predicted_to_fit() -> None:
    """Otherwise the cost model would never learn that a slow model has become fast."""
    backend = SlowCrossEncoder(batch_s=0.1, token_s=0.0)
    with engine_of(backend) as engine:
        engine.compute(pairs("learn", 1))
        output = engine.compute(pairs("query", 5), deadline=within(0.05))
        assert not output.done.any()
        backend._cost_s = 0.0, 0.0
        for _ in range(30):
            output = engine.compute(pairs("query", 5), deadline=within(0.05))
        assert output.done.all()


@pytest.mark.parametrize("late_s", [0.0, -5.0])
def test_a_deadline_that_has_passed_is_answered_at_once(late_s: float) -> None:
    backend = GatedCrossEncoder()
    with engine_of(backend) as engine:
        items = pairs("late", 20)
        assert_correct(output := engine.compute(items, deadline=within(late_s)), items)
        assert not output.done.any()
        backend.gate.set()


@pytest.mark.parametrize("how", ["compute", "acompute", "submit"])
def test_a_caller_is_answered_at_the_deadline_while_others_compute(how: str) -> None:
    backend = GatedCrossEncoder(batch_tokens=100)
    engine = engine_of(backend)
    engine.submit(pairs("bulk", 50), priority="bulk")
    assert backend.entered.wait(10)
    items = pairs("query", 30)
    start = time.perf_counter()
    deadline = start + 0.1
    ticks: list[float] = []

    async def ask() -> RequestOutput:
        async def tick() -> None:
            while True:
                ticks.append(time.perf_counter())
                await asyncio.sleep(0.005)

        ticker = asyncio.create_task(tick())
        try:
            return await engine.acompute(items, deadline=deadline)
        finally:
            ticker.cancel()

    if how == "compute":
        output = engine.compute(items, deadline=deadline)
    elif how == "acompute":
        output = asyncio.run(ask())
        assert len(ticks) > 5  # the loop was not blocked
    else:
        output = engine.submit(items, deadline=deadline).result(10)
    taken = time.perf_counter() - start
    assert 0.1 <= taken < 0.1 + SLACK_S
    assert not output.done.any()
    assert_correct(output, items)
    backend.gate.set()
    engine.close()
    assert all(pair.query == "bulk" for batch in backend.batches for pair in batch)


def test_a_batch_that_ends_too_late_still_fills_the_cache() -> None:
    backend = GatedCrossEncoder(batch_tokens=40)
    with engine_of(backend) as engine:
        engine.cache.memory.grow(1_000_000)
        items = pairs("query", 3)
        assert not engine.compute(items, deadline=within(0.05)).done.any()
        backend.gate.set()
        while not engine.cache.memory.size_bytes:
            time.sleep(0.001)
        cached = engine.cache.find(items, range(3), None)
        assert list(cached) == [0]
        assert engine.compute(items).cache_hits == 1


@pytest.mark.parametrize("how", ["compute", "acompute", "submit"])
def test_a_request_that_is_not_admitted_is_answered_too(how: str) -> None:
    backend = GatedCrossEncoder(batch_tokens=100)
    engine = engine_of(backend, max_queue_tokens=200)
    first = engine.submit(pairs("first", 60))
    assert backend.entered.wait(10)
    items = pairs("outside", 3)
    deadline = within(0.05)
    if how == "compute":
        output = engine.compute(items, deadline=deadline)
    elif how == "acompute":
        output = asyncio.run(engine.acompute(items, deadline=deadline))
    else:
        output = engine.submit(items, deadline=deadline).result(10)
    assert not output.done.any()
    backend.gate.set()
    assert first.result(10).done.all()
    assert engine.stats().queued_tokens == 0
    engine.close()
    assert all(pair.query == "first" for batch in backend.batches for pair in batch)


def test_cached_items_are_done_at_any_position() -> None:
    backend = SlowCrossEncoder()
    items = pairs("query", 1_000)
    cached = [3, 400, 401, 998, 999]
    with engine_of(backend) as engine:
        engine.cache.memory.grow(10_000_000)
        engine.compute([items[index] for index in cached])
        output = engine.compute(items, deadline=within(0.1))
    assert_correct(output, items)
    assert output.done[cached].all()
    assert output.cache_hits == len(cached)
    fresh = np.delete(output.done, cached)
    assert 0 < fresh.sum() < len(fresh)
    assert fresh[: fresh.sum()].all()


def test_cached_items_need_no_batch() -> None:
    backend = FakeCrossEncoder()
    items = pairs("query", 300)
    with engine_of(backend) as engine:
        engine.cache.memory.grow(10_000_000)
        engine.compute(items)
        output = engine.compute(items, deadline=within(5))
    assert output.done.all()
    assert output.batches == 0


def test_requests_with_and_without_deadlines_share_batches() -> None:
    """Short requests are computed in one batch, with or without a deadline."""
    backend = GatedCrossEncoder(batch_tokens=4_000)
    with engine_of(backend) as engine:
        backend.gate.set()
        for count in (1, 5, 20, 40):
            engine.compute(pairs("learn", count))
        backend.gate.clear()
        backend.entered.clear()
        opener = engine.submit(pairs("opener", 1))
        assert backend.entered.wait(10)
        requests = [pairs(f"query{number}", 3) for number in range(8)]
        futures = [
            engine.submit(items, deadline=within(20) if number % 2 else None)
            for number, items in enumerate(requests)
        ]
        time.sleep(0.05)  # the tokenizer thread makes them ready while the worker is blocked
        batches = len(backend.batches)
        backend.gate.set()
        for items, future in zip(requests, futures, strict=True):
            assert_correct(output := future.result(10), items)
            assert output.done.all()
        opener.result(10)
    assert len(backend.batches) - batches <= 4


def test_faults_memory_and_cancellation_work_as_without_a_deadline() -> None:
    backend = FaultyCrossEncoder(raise_for("bad", ZeroDivisionError("no")))
    with engine_of(backend) as engine, pytest.raises(InferenceError, match="no"):
        engine.compute(pairs("bad", 3), deadline=within(10))
    backend = FaultyCrossEncoder(out_of_memory_beyond(3), batch_tokens=1_000)
    items = pairs("query", 40)
    with engine_of(backend) as engine:
        for _ in range(3):
            assert engine.compute(items, deadline=within(10)).done.all()
        assert engine.stats().out_of_memory >= 1
    gated = GatedCrossEncoder()
    with engine_of(gated) as engine:
        future = engine.submit(items, deadline=within(10))
        assert future.cancel()
        gated.gate.set()
        with pytest.raises(CancelledError):
            future.result(10)
        gated.gate.clear()
        with pytest.raises(TimeoutError):
            engine.compute(items, deadline=within(10), timeout=0.05)
        gated.gate.set()
        assert engine.stats().cancelled == 2
    with pytest.raises(EngineClosedError):
        engine.compute(items, deadline=within(1))


def test_a_deadline_must_be_a_time() -> None:
    with engine_of(FakeCrossEncoder()) as engine, pytest.raises(InvalidInputError, match="nan"):
        engine.compute(pairs("query", 1), deadline=float("nan"))


@pytest.mark.parametrize("seed", range(4))
def test_every_request_ends_correctly_under_random_faults(seed: int) -> None:
    """Deadlines, cancellations, faults and out-of-memory errors, in threads and event loops."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["deadline", "none", "cancelled", "raises"], 120, p=[0.6, 0.2, 0.1, 0.1])

    def fault(batch: list[TextPair]) -> None:
        out_of_memory_beyond(12)(batch)
        if any(pair.query.startswith("raises") for pair in batch):
            message = "this query raises"
            raise RuntimeError(message)

    backend = FaultyCrossEncoder(fault, delay_s=0.002, seed=seed, batch_tokens=200)
    engine = engine_of(backend, max_queue_tokens=2_000)
    engine.cache.memory.grow(20_000)

    def request(number: int) -> str:
        rng = np.random.default_rng((seed, number))
        kind = str(kinds[number])
        items = pairs(f"{kind}{number % 40}", int(rng.integers(0, 60)))
        seconds = float(rng.choice([0.0, 0.005, 0.03, 0.2, 20.0]))
        deadline = None if kind == "none" else within(seconds)
        try:
            if kind == "cancelled":
                future = engine.submit(items, deadline=deadline)
                time.sleep(0.002)
                future.cancel()
                output = future.result(30)
            elif number % 2:
                output = asyncio.run(engine.acompute(items, deadline=deadline))
            else:
                output = engine.compute(items, deadline=deadline, timeout=60)
        except CancelledError:
            return "cancelled"
        except InferenceError:
            return "raises"
        assert_correct(output, items)
        if kind == "none" or seconds > 10:
            assert output.done.all()
        return "answered"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(request, range(len(kinds))))
    for kind, outcome in zip(kinds, outcomes, strict=True):
        assert outcome in ("answered", kind)
    assert engine.stats().queued_tokens == 0
    engine.close()
