"""Backends that run several batches at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rerank_plugins import Reranker
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.loading import LazyModel
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import (
    BatchError,
    ConfigurationError,
    EngineClosedError,
    InferenceError,
    InvalidInputError,
    OutOfMemoryError,
)
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers.engines import engine_of, expected, pairs

WORKERS = 4


class Parallel(FakeCrossEncoder):
    """Runs four batches at once, and counts them.

    Attributes:
        running: Batches that run now.
        max_running: Maximum number of batches that ran at once.
        gate: Event that lets batches pass.
    """

    workers = WORKERS

    def __init__(self, *, batch_tokens: int = 100, open_gate: bool = True) -> None:
        super().__init__(batch_tokens=batch_tokens)
        self.running = self.max_running = 0
        self.gate = threading.Event()
        self._lock = threading.Lock()
        if open_gate:
            self.gate.set()

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        with self._lock:
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        try:
            assert self.gate.wait(30)
            return super().run(batch)
        finally:
            with self._lock:
                self.running -= 1

    def wait_for(self, running: int) -> None:
        deadline = time.monotonic() + 10
        while self.running != running:
            assert time.monotonic() < deadline, f"{self.running} batches, not {running}"
            time.sleep(0.001)


def test_four_batches_run_at_once_with_correct_scores() -> None:
    backend = Parallel(open_gate=False)
    with engine_of(backend) as engine:
        requests = [pairs(f"query{number}", 20 + number) for number in range(12)]
        futures = [engine.submit(request) for request in requests]
        backend.wait_for(WORKERS)
        backend.gate.set()
        for request, future in zip(requests, futures, strict=True):
            np.testing.assert_allclose(future.result(10).values, expected(request))
        assert backend.max_running == WORKERS
        assert engine.stats().queued_tokens == 0
        assert engine.stats().batches == len(backend.batches)


def test_a_small_request_is_still_one_batch() -> None:
    """Idle workers do not split a request, and neither does tokenizing it in parts."""

    class Untokenized(Parallel):
        prepare_items = 1_000

    backend = Untokenized(batch_tokens=4_000)
    with engine_of(backend) as engine:
        for _ in range(5):
            assert engine.compute(pairs("query", 200)).batches == 1
    assert {len(batch) for batch in backend.batches} == {200}


@pytest.mark.parametrize("name", ["workers", "prepare_items"])
def test_an_invalid_count_is_refused(name: str) -> None:
    backend = FakeCrossEncoder()
    backend.__dict__[name] = 0
    with pytest.raises(ConfigurationError, match=f"{name} is 0"):
        Reranker(backend).warm_up()


def test_batches_of_one_request_may_fail_together() -> None:
    together = threading.Barrier(WORKERS)

    class Failing(Parallel):
        def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
            if batch[0].payload.query == "bad":
                together.wait(10)
                message = "all at once"
                raise ZeroDivisionError(message)
            return super().run(batch)

    backend = Failing()
    with engine_of(backend) as engine:
        for _ in range(20):
            bad = engine.submit(pairs("bad", 8 * WORKERS))  # one batch for each worker
            with pytest.raises(InferenceError, match="all at once"):
                bad.result(10)
            together.reset()
        assert len(engine.compute(pairs("good", 50)).values) == 50
        assert engine.stats().queued_tokens == 0


def test_batches_that_do_not_fit_together_halve_the_budget_once() -> None:
    together = threading.Barrier(WORKERS)

    class Small(Parallel):
        def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
            if len(batch) > 6:
                together.wait(10)
                message = "no memory"
                raise OutOfMemoryError(message)
            return super().run(batch)

    backend = Small(batch_tokens=110)
    with engine_of(backend) as engine:
        items = pairs("query", 10 * WORKERS)
        np.testing.assert_allclose(engine.compute(items).values, expected(items))
        stats = engine.stats()
        assert stats.out_of_memory == WORKERS
        assert 45 <= stats.batch_tokens <= 55


def test_a_dead_worker_fails_all_requests_and_new_threads_start() -> None:
    class Dying(Parallel):
        def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
            if batch[0].payload.query == "fatal":
                message = "dying"
                raise SystemExit(message)
            return super().run(batch)

    backend = Dying(open_gate=False)
    engine = engine_of(backend)
    innocent = engine.submit(pairs("innocent", 16))  # three batches
    backend.wait_for(3)
    fatal = engine.submit(pairs("fatal", 3))
    for future in (fatal, innocent):
        with pytest.raises(InferenceError, match="dying"):
            future.result(10)
    backend.gate.set()
    np.testing.assert_allclose(
        engine.compute(pairs("next", 50)).values, expected(pairs("next", 50))
    )
    engine.close()
    assert not any(thread.is_alive() for thread in engine._scheduler.threads)


def test_close_ends_every_worker() -> None:
    backend = Parallel(open_gate=False)
    engine = engine_of(backend)
    future = engine.submit(pairs("query", 100))
    backend.wait_for(WORKERS)
    threads = engine._scheduler.threads
    assert len(threads) == 1 + WORKERS
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(EngineClosedError):
        future.result(10)
    backend.gate.set()
    closer.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert backend.closed


class Loader:
    """Keeps a list of the backends it loaded."""

    def __init__(self) -> None:
        self.loaded: list[Parallel] = []

    def resolve(self, config: ModelConfig) -> ModelConfig:
        return config

    def load(self, config: ModelConfig) -> Parallel:
        self.loaded.append(Parallel())
        return self.loaded[-1]


def test_an_idle_worker_does_not_unload_the_model_of_a_busy_one() -> None:
    """The request was cancelled, so the queue is empty, but its batch still runs."""
    loader = Loader()
    engine: Engine[TextPair] = Engine(LazyModel(loader, ModelConfig()))
    engine.idle_unload_s = 0.05
    engine.compute(pairs("query", 50))
    (backend,) = loader.loaded
    backend.gate.clear()
    cancelled = engine.submit(pairs("query", 3))
    backend.wait_for(1)
    assert cancelled.cancel()
    time.sleep(0.3)
    assert [loaded.closed for loaded in loader.loaded] == [False]
    backend.gate.set()
    deadline = time.monotonic() + 10
    while engine.loaded:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert backend.closed
    assert len(engine.compute(pairs("query", 5)).values) == 5
    engine.close()


def test_reported_failures_reach_their_requests_and_nothing_runs_again() -> None:
    class Reporting(Parallel):
        workers = 1

        def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
            rows = super().run(batch)
            errors = {
                row: InvalidInputError(f"no {item.payload.query}")
                for row, item in enumerate(batch)
                if item.payload.query.startswith("bad")
            }
            if errors:
                message = "some failed"
                raise BatchError(message, rows, errors)
            return rows

    backend = Reporting(batch_tokens=4_000, open_gate=False)
    with engine_of(backend) as engine:
        opener = engine.submit(pairs("opener", 1))
        backend.wait_for(1)
        futures: dict[str, Future[RequestOutput]] = {
            query: engine.submit(pairs(query, 3)) for query in ("good", "bad1", "bad2")
        }
        while engine.stats().requests < 4:
            time.sleep(0.001)
        time.sleep(0.05)  # the tokenizer thread makes them ready while the worker is blocked
        backend.gate.set()
        opener.result(10)
        np.testing.assert_allclose(futures["good"].result(10).values, expected(pairs("good", 3)))
        for query in ("bad1", "bad2"):
            with pytest.raises(InvalidInputError, match=f"no {query}"):
                futures[query].result(10)
    assert len(backend.batches) == 2


def test_many_callers_on_many_workers() -> None:
    """Random sizes and cancellations: every other request gets correct scores."""
    rng = np.random.default_rng(7)
    backend = Parallel(batch_tokens=60)
    with engine_of(backend, max_queue_tokens=3_000) as engine:

        def call(number: int) -> Any:
            items = pairs(f"query{number}", int(rng.integers(1, 40)))
            if number % 5 == 0:
                future = engine.submit(items)
                future.cancel()
                return None
            np.testing.assert_allclose(engine.compute(items, timeout=30).values, expected(items))
            return None

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(call, range(200)))
        assert engine.stats().queued_tokens == 0
