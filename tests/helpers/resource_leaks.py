"""No test may leave a thread, a future, a task or a socket behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import os
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from rerank_plugins.config import MINI
from rerank_plugins.engine import registry
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.loading import LazyModel, UserBackend

GRACE_S: Final = 5.0
"""How long what has been told to end may take."""

_UNCOLLECTED_S: Final = 0.1
"""How long threads have to end by themselves, as most do, before garbage is looked through."""

ALLOWED: Final = {
    "tqdm_monitor": "tqdm's own; one a process, it cannot be asked to end",
    "TMonitor": "the same, before it had a name",
    "AnyIO worker thread": "Starlette's pool; ends with its event loop, some time later",
    "asyncio-waitpid": "asyncio's own; ends with the child process",
    "pytest_timeout": "the timeout of the test itself",
    "pydevd": "a debugger",
}
"""What names or classes of threads of the whole process begin with, and why they stay."""

NOT_WATCHED: Final = {
    "tests/backends/test_compile.py": "torch's compiler keeps threads and workers for the process",
    "tests/robustness/fuzz/": "clients and servers of a module keep connections between its tests",
    "tests/ray/": "Ray keeps threads and sockets of its own for the whole process",
}
"""Where tests that are not looked at begin, and why."""

_BEFORE: Final = pytest.StashKey[tuple[set[threading.Thread], set[Engine[Any]], set[str]]]()
_SOCKETS: Final = Path("/proc/self/fd")
_made: list[weakref.ref[concurrent.futures.Future[Any]]] = []
_make_future = concurrent.futures.Future.__init__


def _noting(self: concurrent.futures.Future[Any]) -> None:
    _make_future(self)
    _made.append(weakref.ref(self))


concurrent.futures.Future.__init__ = _noting  # type: ignore[method-assign, assignment]


def _kept(engine: Engine[Any]) -> bool:
    """Return whether an engine is the process's: that of the embedded model."""
    return isinstance(engine._provider, LazyModel) and engine._provider._config.model == MINI


def _engines() -> set[Engine[Any]]:
    """Return the engines that the process knows, but for those it keeps."""
    known = registry._registry
    engines = [*known.engines.values(), *known.user_engines.values()]
    return {engine for engine in engines if not _kept(engine)}


def _threads() -> set[threading.Thread]:
    """Return the threads that count: not those allowed, nor of engines the process keeps."""
    engines = [one for one in registry._registry.engines.values() if _kept(one)]
    kept = {thread for engine in engines for thread in engine._scheduler.threads}
    for engine in engines:
        source: Any = engine._provider
        backend = source._backend
        for lanes in (
            getattr(backend, "_lanes", None),
            getattr(getattr(backend, "_packed", None), "lanes", None),
        ):
            kept |= set(lanes.threads) if lanes is not None else set()
    return {
        thread
        for thread in threading.enumerate()
        if thread not in kept | _langchains()
        and not any(
            name.startswith(tuple(ALLOWED)) for name in (thread.name, type(thread).__name__)
        )
        and not _told_to_end(thread)
    }


def _told_to_end(thread: threading.Thread) -> bool:
    """Return whether a thread is of a pool that was shut down without waiting for it.

    transformers does so with the pool that reads weights; the package has no pools.
    """
    arguments = getattr(thread, "_args", ())  # of the pool's worker: a reference to the pool first
    if not arguments or not isinstance(arguments[0], weakref.ref):
        return False
    pool = arguments[0]()
    return pool is None or getattr(pool, "_shutdown", False)


def _langchains() -> set[threading.Thread]:
    """Return the threads in which LangChain calls handlers; it ends them with the process."""
    manager: Any = sys.modules.get("langchain_core.callbacks.manager")
    pool = getattr(manager, "_executor", None)
    if pool is None or not pool.cache_info().currsize:
        return set()
    return set(pool()._threads)


def _sockets() -> set[str]:
    """Return the open sockets by inode; empty where the system does not list them."""
    found = set()
    for entry in _SOCKETS.iterdir() if _SOCKETS.exists() else ():
        try:
            target = os.readlink(entry)
        except OSError:  # closed meanwhile, such as the listing's own
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _futures() -> list[concurrent.futures.Future[Any]]:
    alive = (reference() for reference in _made)
    return [future for future in alive if future is not None and not future.done()]


def _gone(left: Callable[[], set[Any] | list[Any]]) -> list[Any]:
    """Return what is left after a while; garbage, which is slow to collect, after a short one."""
    if _left_after(left, _UNCOLLECTED_S):
        gc.collect()
    return _left_after(left, GRACE_S)


def _left_after(left: Callable[[], set[Any] | list[Any]], seconds: float) -> list[Any]:
    """Wait until nothing is left, for so long at most; return what is."""
    end = time.monotonic() + seconds
    pause = 0.001
    while (found := left()) and time.monotonic() < end:
        found = []  # no references, which would keep alive what is looked for
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return list(found)


def pytest_collection_finish() -> None:
    """Leave a million objects of imported libraries out of all later collections of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def no_tasks_left() -> AsyncIterator[None]:
    """Fail if a task of the test's event loop still runs; the loop would cancel it in silence."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"the test leaves tasks: {left}"


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """Note what is there before a test; the hook below looks when all its fixtures have ended."""
    item = request.node
    if item.nodeid.startswith(tuple(NOT_WATCHED)):
        return
    item.stash[_BEFORE] = _threads(), _engines(), _sockets()
    _made.clear()
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_tasks_left")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail if a thread, a future or a socket that the test made is still there.

    Engines of models and backends of the test are ended first, as they are at the end of the
    process; the embedded model's stays, with its threads, for the next test.
    """
    yield
    if _BEFORE not in item.stash:
        return
    threads, engines, sockets = item.stash[_BEFORE]
    del item.stash[_BEFORE]
    for engine in _engines() - engines:
        if isinstance(engine._provider, UserBackend):
            engine.abandon()  # the backend stays usable for whoever holds it
        else:
            engine.close()
    del engines
    futures = _gone(_futures)
    assert not futures, f"the test leaves futures that nobody sets: {futures}"
    left = _gone(lambda: {thread for thread in _threads() - threads if thread.is_alive()})
    assert not left, f"the test leaves threads: {left}"
    opened = _gone(lambda: _sockets() - sockets)
    assert not opened, f"the test leaves sockets: {opened}"
