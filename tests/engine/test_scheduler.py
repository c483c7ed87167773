"""Many callers and one worker: scores, cancellation, backpressure, faults, lifecycle."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.registry import get_engine
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import (
    EngineClosedError,
    EngineOverloadedError,
    InferenceError,
    InvalidScoresError,
    OutOfMemoryError,
)
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.types import TextPair
from tests.helpers.engines import (
    FaultyCrossEncoder,
    GatedCrossEncoder,
    check_only_bad_fails,
    engine_of,
    expected,
    out_of_memory_beyond,
    pairs,
    raise_for,
)


def threads_of(engine: Engine[Any]) -> list[threading.Thread]:
    return [thread for thread in engine._scheduler.threads if thread.is_alive()]


def test_threads_loops_and_futures_share_batches() -> None:
    """Synchronous threads, two event loops and futures get correct scores from shared batches."""
    backend = GatedCrossEncoder(batch_tokens=4_000)
    with engine_of(backend) as engine:
        requests = [pairs(f"query{number}", 5 + number % 7) for number in range(40)]

        def in_a_loop(loop_requests: list[list[TextPair]]) -> list[RequestOutput]:
            async def main() -> list[RequestOutput]:
                return await asyncio.gather(
                    *(engine.acompute(request) for request in loop_requests)
                )

            return asyncio.run(main())

        with ThreadPoolExecutor(22) as pool:
            loops = [pool.submit(in_a_loop, requests[:10]), pool.submit(in_a_loop, requests[10:20])]
            sync = [pool.submit(engine.compute, request) for request in requests[20:30]]
            plain = [engine.submit(request) for request in requests[30:]]
            while engine.stats().requests < len(requests):
                time.sleep(0.001)
            backend.gate.set()
            results = [result for loop in loops for result in loop.result(30)]
            results += [future.result(30) for future in [*sync, *plain]]
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_allclose(result.values, expected(request))
        assert result.batches >= 1
    assert len(backend.batches) < len(requests) / 2
    assert any(len({pair.query for pair in batch}) > 1 for batch in backend.batches)


async def test_cancelled_task_is_not_scored_and_frees_the_queue() -> None:
    backend = GatedCrossEncoder(batch_tokens=100)
    engine = engine_of(backend)
    first = asyncio.create_task(engine.acompute(pairs("first", 2)))
    await asyncio.to_thread(backend.entered.wait, 10)
    second = asyncio.create_task(engine.acompute(pairs("second", 50)))
    while engine.stats().requests < 2:
        await asyncio.sleep(0.001)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert engine.stats().cancelled == 1
    backend.gate.set()
    await first
    assert engine.stats().queued_tokens == 0
    assert {pair.query for batch in backend.batches for pair in batch} == {"first"}
    await asyncio.to_thread(engine.close)


def test_timeout_and_future_cancel_free_the_queue() -> None:
    backend = GatedCrossEncoder(batch_tokens=100)
    with engine_of(backend) as engine:
        first = engine.submit(pairs("first", 1))
        assert backend.entered.wait(10)
        with pytest.raises(TimeoutError):
            engine.compute(pairs("timed out", 20), timeout=0.05)
        cancelled = engine.submit(pairs("cancelled", 20))
        assert cancelled.cancel()
        backend.gate.set()
        first.result(10)
        with pytest.raises(CancelledError):
            cancelled.result(10)
        assert engine.stats().cancelled == 2
        assert engine.stats().queued_tokens == 0
    assert {pair.query for batch in backend.batches for pair in batch} == {"first"}


def test_full_queue_refuses_or_waits() -> None:
    backend = GatedCrossEncoder(batch_tokens=100)
    with engine_of(backend, max_queue_tokens=500) as engine:
        futures = [engine.submit(pairs("first", 60))]
        with pytest.raises(EngineOverloadedError, match=r"\d+ tokens queued.*500"):
            engine.compute(pairs("refused", 1), wait=False)
        admitted = threading.Event()

        def wait_for_room() -> Future[RequestOutput]:
            future = engine.submit(pairs("waited", 3))
            admitted.set()
            return future

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for_room)
            assert not admitted.wait(0.1)
            backend.gate.set()
            futures.append(waiting.result(10))
        np.testing.assert_allclose(futures[1].result(10).values, expected(pairs("waited", 3)))


async def test_full_queue_does_not_block_the_event_loop() -> None:
    backend = GatedCrossEncoder(batch_tokens=100)
    engine = engine_of(backend, max_queue_tokens=200)
    first = engine.submit(pairs("first", 60))
    waiting = asyncio.create_task(engine.acompute(pairs("waits", 2)))
    given_up = asyncio.create_task(engine.acompute(pairs("gives up", 2)))
    await asyncio.sleep(0.05)
    given_up.cancel()
    # A task is cancelled in the next iteration of the loop: open the gate after it.
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert len(engine._queue._not_admitted) == 1  # the cancelled request left at once
    backend.gate.set()
    np.testing.assert_allclose((await waiting).values, expected(pairs("waits", 2)))
    first.result(10)
    assert all(pair.query != "gives up" for batch in backend.batches for pair in batch)
    await asyncio.to_thread(engine.close)


def shared_batch(backend: FaultyCrossEncoder) -> dict[str, Future[RequestOutput]]:
    """Send three requests that share a batch."""
    engine = get_engine("cross-encoder", backend)
    gate = threading.Event()
    inner, backend.fault = backend.fault, lambda _: None
    blocked = threading.Event()

    def wait(batch: list[TextPair]) -> None:
        blocked.set()
        assert gate.wait(10)

    backend.fault = wait
    opener = engine.submit(pairs("opener", 1))
    assert blocked.wait(10)
    futures = {query: engine.submit(pairs(query, 2)) for query in ("good", "bad", "fine")}
    while engine.stats().requests < 4:
        time.sleep(0.001)
    time.sleep(0.05)  # the tokenizer thread makes them ready while the worker is blocked
    backend.fault = inner
    gate.set()
    opener.result(10)
    return futures


@pytest.mark.parametrize(
    ("backend", "error", "cause"),
    [
        (FaultyCrossEncoder(raise_for("bad", ZeroDivisionError("no"))), InferenceError, "no"),
        (FaultyCrossEncoder(poison=frozenset({"bad"})), InvalidScoresError, "not finite"),
    ],
    ids=["exception", "nan"],
)
def test_a_fault_reaches_only_its_request(
    backend: FaultyCrossEncoder, error: type[Exception], cause: str
) -> None:
    futures = shared_batch(backend)
    with pytest.raises(error, match=cause):
        futures["bad"].result(10)
    for query in ("good", "fine"):
        np.testing.assert_allclose(futures[query].result(10).values, expected(pairs(query, 2)))
    engine = get_engine("cross-encoder", backend)
    np.testing.assert_allclose(
        engine.compute(pairs("later", 3)).values, expected(pairs("later", 3))
    )
    assert engine.stats().queued_tokens == 0


def test_out_of_memory_halves_the_budget_permanently() -> None:
    backend = FaultyCrossEncoder(out_of_memory_beyond(3), batch_tokens=1_000)
    with engine_of(backend) as engine:
        items = pairs("query", 100)
        np.testing.assert_allclose(engine.compute(items).values, expected(items))
        stats = engine.stats()
        assert stats.out_of_memory >= 1
        assert stats.batch_tokens < 200
        engine.compute(items)
        assert engine.stats().out_of_memory == stats.out_of_memory


def test_out_of_memory_for_one_item_is_reported() -> None:
    backend = FaultyCrossEncoder(out_of_memory_beyond(0))
    with engine_of(backend) as engine:
        with pytest.raises(OutOfMemoryError):
            engine.compute(pairs("query", 4))
        assert engine.stats().queued_tokens == 0


def test_a_dead_worker_is_reported_and_replaced() -> None:
    """The worker raises a BaseException that is not an Exception."""
    both_wait = threading.Event()

    def die(batch: list[TextPair]) -> None:
        assert both_wait.wait(10)
        raise_for("fatal", SystemExit("dying"))(batch)

    backend = FaultyCrossEncoder(die, batch_tokens=50)
    engine = engine_of(backend)
    futures = [engine.submit(pairs("fatal", 30)), engine.submit(pairs("innocent", 200))]
    both_wait.set()
    for future in futures:
        with pytest.raises(InferenceError, match="dying"):
            future.result(10)
    np.testing.assert_allclose(engine.compute(pairs("next", 3)).values, expected(pairs("next", 3)))
    engine.close()


def test_a_tokenizer_fault_reaches_only_its_request() -> None:
    class Broken(FakeCrossEncoder):
        def prepare(self, items: Any, max_length: int | None = None) -> Any:
            if items[0].query == "bad":
                message = "cannot tokenize"
                raise KeyError(message)
            return super().prepare(items, max_length)

    check_only_bad_fails(Broken(), InferenceError, "cannot tokenize")


def test_close_fails_pending_requests_and_stops_the_threads() -> None:
    backend = GatedCrossEncoder(batch_tokens=50)
    engine = engine_of(backend)
    engine.submit(pairs("running", 1))
    assert backend.entered.wait(10)
    waiting = engine.submit(pairs("waiting", 30))
    threads = threads_of(engine)
    assert len(threads) == 2
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(EngineClosedError):
        waiting.result(10)
    backend.gate.set()
    closer.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert backend.closed
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.compute(pairs("late", 1))


def test_an_engine_ends_with_the_backend_object() -> None:
    backend = FakeCrossEncoder()
    Reranker(backend).rank("query", ["a", "b"])
    threads = threads_of(get_engine("cross-encoder", backend))
    assert len(threads) == 2
    del backend
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_an_engine_ends_with_a_backend_that_failed() -> None:
    """The last request of a thread, and the traceback of its error, do not keep the backend."""

    class Broken(FakeCrossEncoder):
        def run(self, batch: Any) -> Any:
            message = "broken"
            raise RuntimeError(message)

    backend = Broken()
    with pytest.raises(InferenceError, match="broken"):
        Reranker(backend).rank("query", ["a", "b"])
    threads = threads_of(get_engine("cross-encoder", backend))
    assert len(threads) == 2
    del backend
    time.sleep(0.1)  # the caller gets the error before the threads wait again
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_bi_encoder_requests_share_batches_too() -> None:
    class Gated(FakeBiEncoder):
        gate = threading.Event()

        def run(self, batch: Any) -> Any:
            assert self.gate.wait(10)
            return super().run(batch)

    backend = Gated()
    encoder = BiEncoder(backend)
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(encoder.encode_query, [f"query {n}"]) for n in range(20)]
        while encoder.engine.stats().requests < 20:
            time.sleep(0.001)
        backend.gate.set()
        vectors = np.concatenate([future.result(10) for future in futures])
    fake = FakeBiEncoder()
    reference = BiEncoder(fake).encode_query([f"query {n}" for n in range(20)])
    np.testing.assert_array_equal(vectors, reference)
    assert len(backend.batches) < 10


def test_stats_add_up() -> None:
    backend = FakeCrossEncoder(max_length=12, batch_tokens=60)
    with engine_of(backend) as engine:
        result = engine.compute(pairs("query", 10, words=3) + pairs("long", 5, words=50))
        stats = engine.stats()
    assert stats.requests == 1
    assert stats.items == 15
    assert stats.truncated == int(result.truncated.sum()) == 5
    assert stats.tokens == int(result.tokens.sum())
    assert stats.batches == len(backend.batches) == result.batches
    assert stats.padded_tokens >= stats.tokens
    assert 0 <= stats.padding_share < 1
    assert stats.compute_s == pytest.approx(result.compute_s)
    assert stats.queue_s == pytest.approx(result.queue_s)
