"""The engine returns results in the order of the items, to any number of callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import EngineClosedError, InferenceError
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers import engines as helpers

CALLERS = 32
_opened = ExitStack()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the engines of the test."""
    yield
    _opened.close()


def engine_of(backend: FakeCrossEncoder) -> Engine[TextPair]:
    return _opened.enter_context(helpers.engine_of(backend))


def number(_: str, document: str) -> float:
    return float(document.split(maxsplit=1)[0])


def pairs(start: int, count: int) -> list[TextPair]:
    """Return pairs of different lengths whose score is their number."""
    return [TextPair("q", f"{start + step} " + "word " * (step * 7 % 23)) for step in range(count)]


def assert_numbers(output: RequestOutput, start: int, count: int) -> None:
    np.testing.assert_array_equal(output.values, np.arange(start, start + count))
    words = [4 + 1 + step * 7 % 23 for step in range(count)]
    np.testing.assert_array_equal(output.tokens, words)
    assert not output.truncated.any()


@given(st.integers(0, 40), st.integers(1, 200))
def test_results_are_in_the_order_of_the_items(count: int, budget: int) -> None:
    engine = engine_of(FakeCrossEncoder(number, batch_tokens=budget))
    try:
        assert_numbers(engine.compute(pairs(0, count)), 0, count)
    finally:
        engine.close()


def test_no_items_need_no_backend() -> None:
    backend = FakeCrossEncoder()
    output = engine_of(backend).compute([])
    assert (len(output.values), len(output.tokens), len(output.truncated)) == (0, 0, 0)
    assert backend.batches == []


def test_batches_keep_the_backends_budget() -> None:
    backend = FakeCrossEncoder(number, batch_tokens=60)
    engine_of(backend).compute(pairs(0, 50))
    for batch in backend.batches:
        longest = max(item.tokens for item in backend.prepare(batch))
        assert longest * len(batch) <= 60 or len(batch) == 1


def test_many_threads_each_get_their_own_results() -> None:
    engine = engine_of(FakeCrossEncoder(number, batch_tokens=100))
    with ThreadPoolExecutor(CALLERS) as pool:
        results = list(
            pool.map(lambda caller: engine.compute(pairs(caller * 100, 20)), range(CALLERS))
        )
    for caller, output in enumerate(results):
        assert_numbers(output, caller * 100, 20)


async def test_many_tasks_each_get_their_own_results() -> None:
    engine = engine_of(FakeCrossEncoder(number, batch_tokens=100))
    results = await asyncio.gather(
        *(engine.acompute(pairs(caller * 100, 20)) for caller in range(CALLERS))
    )
    for caller, output in enumerate(results):
        assert_numbers(output, caller * 100, 20)


class Exclusive(FakeCrossEncoder):
    """Counts concurrent calls of :meth:`run`."""

    def __init__(self) -> None:
        super().__init__(number)
        self.collisions = 0
        self._busy = threading.Lock()

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if not self._busy.acquire(blocking=False):
            self.collisions += 1
            return super().run(batch)
        try:
            threading.Event().wait(0.002)
            return super().run(batch)
        finally:
            self._busy.release()


def test_the_backend_runs_for_one_thread_at_a_time() -> None:
    backend = Exclusive()
    engine = engine_of(backend)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda caller: engine.compute(pairs(caller, 3)), range(16)))
    assert len(backend.batches) >= 1
    assert backend.collisions == 0


async def test_the_event_loop_is_not_blocked_while_the_model_computes() -> None:
    started, release = threading.Event(), threading.Event()

    def wait(_: str, __: str) -> float:
        started.set()
        assert release.wait(10)
        return 1.0

    engine = engine_of(FakeCrossEncoder(wait))
    task = asyncio.create_task(engine.acompute([TextPair("q", "d")]))
    while not started.is_set():
        await asyncio.sleep(0.001)
    assert not task.done()
    release.set()
    assert (await task).values.tolist() == [1.0]


def test_a_failure_reaches_only_its_caller() -> None:
    def score(_: str, document: str) -> float:
        if document == "bad":
            message = "boom"
            raise RuntimeError(message)
        return 1.0

    engine = engine_of(FakeCrossEncoder(score))
    with pytest.raises(InferenceError, match="boom"):
        engine.compute([TextPair("q", "bad")])
    assert engine.compute([TextPair("q", "good")]).values.tolist() == [1.0]


async def test_a_closed_engine_refuses_requests_and_has_closed_its_backend() -> None:
    backend = FakeCrossEncoder()
    engine = engine_of(backend)
    was_closed = engine.closed
    engine.close()
    engine.close()
    assert (was_closed, engine.closed) == (False, True)
    assert backend.closed
    with pytest.raises(EngineClosedError, match="closed"):
        engine.compute([TextPair("q", "d")])
    with pytest.raises(EngineClosedError, match="closed"):
        await engine.acompute([TextPair("q", "d")])
    assert backend.batches == []


async def test_bulk_requests_come_last_in_the_async_interface_too() -> None:
    backend = helpers.GatedCrossEncoder(batch_tokens=6)
    engine = engine_of(backend)
    first = asyncio.create_task(engine.acompute([TextPair("first", "a")]))
    while not backend.entered.is_set():
        await asyncio.sleep(0.001)
    bulk = asyncio.create_task(engine.acompute([TextPair("bulk", "a")], priority="bulk"))
    await asyncio.sleep(0)
    urgent = asyncio.create_task(engine.acompute([TextPair("urgent", "a")]))
    while engine.stats().queued_tokens < 15:  # all three
        await asyncio.sleep(0.001)
    backend.gate.set()
    await asyncio.gather(first, bulk, urgent)
    assert [batch[0].query for batch in backend.batches] == ["first", "urgent", "bulk"]
