"""Event loops that end while requests wait: the queue is freed and everybody else is served."""

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

Asked = list[asyncio.Task[object]]


async def ask(engine: Engine[TextPair], backend: GatedCrossEncoder, asked: Asked) -> None:
    """Leave two requests behind, one of them in a batch."""
    for query in ("computed", "queued"):
        asked.append(asyncio.ensure_future(engine.acompute(pairs(query, 40))))
    while not backend.entered.is_set():
        await asyncio.sleep(0.001)


def wait_until_free(engine: Engine[TextPair]) -> None:
    end = time.monotonic() + 10
    while engine.stats().queued_tokens:
        assert time.monotonic() < end
        time.sleep(0.001)


def check_others(engine: Engine[TextPair], backend: GatedCrossEncoder) -> None:
    """Let the backend go on; who waits in another thread gets the right scores."""
    other = engine.submit(pairs("other", 5))
    backend.gate.set()
    np.testing.assert_allclose(other.result(10).values, expected(pairs("other", 5)))
    wait_until_free(engine)


def test_a_loop_that_ends_cancels_what_it_asked_for() -> None:
    """``asyncio.run`` returns while tasks wait, and cancels them."""
    backend, asked = GatedCrossEncoder(batch_tokens=100), Asked()
    with engine_of(backend) as engine:
        asyncio.run(ask(engine, backend, asked))
        assert all(task.cancelled() for task in asked)
        check_others(engine, backend)
        assert engine.stats().cancelled == 2
        assert sum(len(batch) for batch in backend.batches) < 40  # the rest was not computed


def test_a_loop_that_is_closed_while_requests_wait(caplog: pytest.LogCaptureFixture) -> None:
    """Closed without a word to its tasks: their answers go nowhere, all others arrive."""
    backend, asked = GatedCrossEncoder(batch_tokens=100), Asked()
    loop = asyncio.new_event_loop()
    with engine_of(backend) as engine:
        loop.run_until_complete(ask(engine, backend, asked))
        loop.close()
        check_others(engine, backend)
        assert not any(task.done() for task in asked)
    assert caplog.text == ""
    for task in asked:  # asyncio would complain of each
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_loop_whose_thread_ends_holds_up_nobody() -> None:
    """A thread stops its loop and goes; the tasks are cancelled when the loop is tidied up."""
    backend, asked = GatedCrossEncoder(batch_tokens=100), Asked()
    loop = asyncio.new_event_loop()
    with engine_of(backend) as engine:
        asking = ask(engine, backend, asked)
        thread = threading.Thread(target=loop.run_until_complete, args=(asking,))
        thread.start()
        thread.join(10)
        assert not loop.is_running()
        check_others(engine, backend)
        for task in asked:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*asked, return_exceptions=True))
        loop.close()
        assert engine.compute(pairs("next", 2), timeout=10).done.all()


def test_a_failure_whose_caller_is_cancelled_just_then_is_not_logged() -> None:
    """What nobody awaits any more, asyncio would log, with whatever the backend said."""
    complaints: list[object] = []

    def fail(_: list[TextPair]) -> None:
        message = "a text"
        raise OSError(message)

    async def ask_and_leave(engine: Engine[TextPair]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        late = time.perf_counter() + 30
        task = asyncio.ensure_future(engine.acompute(pairs("bad", 3), deadline=late))
        await asyncio.sleep(0)
        wait_until_free(engine)  # the failure is on its way into this loop, which is held up
        time.sleep(0.05)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with engine_of(FaultyCrossEncoder(fail)) as engine:
        asyncio.run(ask_and_leave(engine))
    gc.collect()
    assert complaints == []
