"""Forks while an engine computes: the child inherits futures, but not the threads."""

from __future__ import annotations

import os

import pytest

from tests.robustness.faults.scripts import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HEAD = """
import asyncio, concurrent.futures, os, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
from rerank_plugins import Reranker
from rerank_plugins.types import TextPair
from rerank_plugins.errors import EngineClosedError
from rerank_plugins.testing import FakeCrossEncoder

class Slow(FakeCrossEncoder):
    def run(self, batch):
        time.sleep(0.02)
        return super().run(batch)

backend = Slow(batch_tokens=50)
engine = Reranker(backend).engine
items = [TextPair("query", f"document {number}") for number in range(60)]
futures = [engine.submit(items) for _ in range(5)]

def forked(child):
    process = os.fork()
    if process:
        _, status = os.waitpid(process, 0)
        print("child", os.waitstatus_to_exitcode(status))
        return
    code = 1
    try:
        child()
        code = 0
    finally:
        os._exit(code)
"""

TAIL = """
values = futures[0].result(60).values.tolist()
assert all(future.result(60).values.tolist() == values for future in futures)
print("parent", engine.stats().queued_tokens)
"""


def check(child: str) -> None:
    """Fork while the engine computes: the child runs a function, the parent gets its scores."""
    result = run_script(f"{HEAD}\n{child}\nforked(child)\n{TAIL}")
    assert (result.stdout, result.stderr) == ("child 0\nparent 0\n", "")


def test_pending_futures_of_the_parent_raise_in_the_child() -> None:
    """No thread of the child would ever set their results."""
    check("""
async def awaited(future):
    return await asyncio.wrap_future(future)

def child():
    for future in futures:
        for wait in (
            lambda: future.result(),
            lambda: future.result(60),
            lambda: asyncio.run(awaited(future)),
            lambda: next(concurrent.futures.as_completed([future])).result(),
        ):
            try:
                wait()
            except EngineClosedError as error:
                assert "before a fork" in str(error)
            else:
                raise AssertionError
""")


def test_results_from_before_a_fork_stay_available() -> None:
    check("""
done = futures[0].result(60).values.tolist()

def child():
    assert futures[0].result(0).values.tolist() == done
""")


def test_a_child_can_close_the_engine_of_its_parent() -> None:
    """A lock that a thread of the parent held at the fork blocks nothing in the child."""
    check("""
taken = threading.Event()

def hold():
    with engine._queue._condition:  # as any thread may at the moment of a fork
        taken.set()
        time.sleep(1)

threading.Thread(target=hold).start()
assert taken.wait(10)

def child():
    global backend
    for use in (engine.stats, lambda: engine.submit(items), lambda: engine.compute(items)):
        try:
            use()
        except EngineClosedError:
            continue
        raise AssertionError
    assert engine.closed
    assert not futures[-1].cancel()
    engine.close()
    engine.abandon()
    assert not backend.closed
    assert len(Reranker(backend).rank("a", ["b", "a"])) == 2  # the child has an engine of its own
    backend = None
""")
