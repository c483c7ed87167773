"""Event loops that end while requests wait: the queue is freed, other requests get scores."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import numpy as np
import pytest

from rerank_plugins.engine.engine import Engine
from rerank_plugins.types import TextPair
from tests.helpers.engines import (
    FaultyCrossEncoder,
    GatedCrossEncoder,
    engine_of,
    expected,
    pairs,
)

Tasks = list[asyncio.Task[object]]


async def leave_requests(
    engine: Engine[TextPair], backend: GatedCrossEncoder, tasks: Tasks
) -> None:
    """Start two requests, one of them in a running batch, and return."""
    for query in ("computed", "queued"):
        tasks.append(asyncio.ensure_future(engine.acompute(pairs(query, 40))))
    while not backend.entered.is_set():
        await asyncio.sleep(0.001)


def wait_until_free(engine: Engine[TextPair]) -> None:
    end = time.monotonic() + 10
    while engine.stats().queued_tokens:
        assert time.monotonic() < end
        time.sleep(0.001)


def check_others(engine: Engine[TextPair], backend: GatedCrossEncoder) -> None:
    """Open the gate; a request of another thread must get the right scores."""
    other = engine.submit(pairs("other", 5))
    backend.gate.set()
    np.testing.assert_allclose(other.result(10).values, expected(pairs("other", 5)))
    wait_until_free(engine)


def test_a_loop_that_ends_cancels_its_requests() -> None:
    """``asyncio.run`` cancels the waiting tasks when it returns."""
    backend, tasks = GatedCrossEncoder(batch_tokens=100), Tasks()
    with engine_of(backend) as engine:
        asyncio.run(leave_requests(engine, backend, tasks))
        assert all(task.cancelled() for task in tasks)
        check_others(engine, backend)
        assert engine.stats().cancelled == 2
        assert sum(len(batch) for batch in backend.batches) < 40  # the others were not computed


def test_a_loop_closed_during_requests_affects_no_others(caplog: pytest.LogCaptureFixture) -> None:
    """The tasks of the loop stay pending; other requests get their scores."""
    backend, tasks = GatedCrossEncoder(batch_tokens=100), Tasks()
    loop = asyncio.new_event_loop()
    with engine_of(backend) as engine:
        loop.run_until_complete(leave_requests(engine, backend, tasks))
        loop.close()
        check_others(engine, backend)
        assert not any(task.done() for task in tasks)
    assert caplog.text == ""
    for task in tasks:  # asyncio would log each of them
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_loop_whose_thread_ends_blocks_no_others() -> None:
    """A thread stops its loop and ends; the tasks are cancelled later."""
    backend, tasks = GatedCrossEncoder(batch_tokens=100), Tasks()
    loop = asyncio.new_event_loop()
    with engine_of(backend) as engine:
        requests = leave_requests(engine, backend, tasks)
        thread = threading.Thread(target=loop.run_until_complete, args=(requests,))
        thread.start()
        thread.join(10)
        assert not loop.is_running()
        check_others(engine, backend)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
        assert engine.compute(pairs("next", 2), timeout=10).done.all()


def test_the_failure_of_a_request_cancelled_at_that_moment_is_not_logged() -> None:
    """asyncio logs exceptions that are never awaited, with the message of the backend."""
    logged: list[object] = []

    def fail(_: list[TextPair]) -> None:
        message = "a text"
        raise OSError(message)

    async def cancel_late(engine: Engine[TextPair]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        deadline = time.perf_counter() + 30
        task = asyncio.ensure_future(engine.acompute(pairs("bad", 3), deadline=deadline))
        await asyncio.sleep(0)
        wait_until_free(engine)  # the failure is scheduled in this loop, which is blocked
        time.sleep(0.05)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with engine_of(FaultyCrossEncoder(fail)) as engine:
        asyncio.run(cancel_late(engine))
    gc.collect()
    assert logged == []
