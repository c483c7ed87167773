"""Hooks that fail a test if it leaves a thread, a future, a task or a socket."""

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
"""Time that threads, futures and sockets have to end after a test."""

_UNCOLLECTED_S: Final = 0.1
"""Time before the garbage is collected, which is slow and rarely needed."""

ALLOWED: Final = {
    "tqdm_monitor": "tqdm has one per process and no way to end it",
    "TMonitor": "the same thread, before it has a name",
    "AnyIO worker thread": "Starlette's pool, which ends some time after its event loop",
    "asyncio-waitpid": "asyncio's, which ends with the child process",
    "pytest_timeout": "the timeout of the test itself",
    "pydevd": "a debugger",
}
"""Prefixes of names or classes of threads that may remain, and the reasons."""

NOT_WATCHED: Final = {
    "tests/backends/test_compile.py": "torch's compiler keeps threads and processes",
    "tests/robustness/fuzz/": "clients and servers of a module keep connections between tests",
    "tests/ray/": "Ray keeps threads and sockets for the whole process",
}
"""Prefixes of tests that are not checked, and the reasons."""

_BEFORE: Final = pytest.StashKey[tuple[set[threading.Thread], set[Engine[Any]], set[str]]]()
_SOCKETS: Final = Path("/proc/self/fd")
_futures: list[weakref.ref[concurrent.futures.Future[Any]]] = []
_initialize_future = concurrent.futures.Future.__init__


def _record_future(self: concurrent.futures.Future[Any]) -> None:
    _initialize_future(self)
    _futures.append(weakref.ref(self))


concurrent.futures.Future.__init__ = _record_future  # type: ignore[method-assign, assignment]


def pytest_collection_finish() -> None:
    """Exclude the objects of imported libraries, about a million, from garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def no_tasks_left() -> AsyncIterator[None]:
    """Fail if a task of the test's event loop is still running: the loop would only cancel it."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"the test leaves tasks: {left}"


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """Record the threads, engines and sockets before a test, for the teardown hook."""
    item = request.node
    if item.nodeid.startswith(tuple(NOT_WATCHED)):
        return
    item.stash[_BEFORE] = _threads(), _engines(), _sockets()
    _futures.clear()
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_tasks_left")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail if a thread, a future or a socket of the test is left after the end of its fixtures.

    Engines that the test created are closed first, as at the end of the process. The engine of
    the bundled model stays, with its threads, for the next test.
    """
    yield
    if _BEFORE not in item.stash:
        return
    threads, engines, sockets = item.stash[_BEFORE]
    del item.stash[_BEFORE]
    for engine in _engines() - engines:
        if isinstance(engine._provider, UserBackend):
            engine.abandon()  # other references to the backend may still use it
        else:
            engine.close()
    del engines
    futures = _remaining(_pending_futures)
    assert not futures, f"the test leaves futures without a result: {futures}"
    left = _remaining(lambda: {thread for thread in _threads() - threads if thread.is_alive()})
    assert not left, f"the test leaves threads: {left}"
    opened = _remaining(lambda: _sockets() - sockets)
    assert not opened, f"the test leaves sockets: {opened}"


def _is_shared(engine: Engine[Any]) -> bool:
    """Return whether an engine is that of the bundled model, which all tests share."""
    return isinstance(engine._provider, LazyModel) and engine._provider._config.model == MINI


def _engines() -> set[Engine[Any]]:
    """Return the registered engines, except the shared one."""
    engines = [*registry._registry.engines.values(), *registry._registry.user_engines.values()]
    return {engine for engine in engines if not _is_shared(engine)}


def _threads() -> set[threading.Thread]:
    """Return the running threads, except allowed ones and those of the shared engine."""
    ignored = _langchain_threads()
    for engine in filter(_is_shared, registry._registry.engines.values()):
        ignored |= set(engine._scheduler.threads)
        backend = engine._provider.loaded_backend
        for pool in (
            getattr(backend, "_thread_pool", None),
            getattr(getattr(backend, "_packed", None), "thread_pool", None),
        ):
            ignored |= set(pool.threads) if pool is not None else set()
    return {
        thread
        for thread in threading.enumerate()
        if thread not in ignored
        and not any(
            name.startswith(tuple(ALLOWED)) for name in (thread.name, type(thread).__name__)
        )
        and not _is_of_ended_pool(thread)
    }


def _is_of_ended_pool(thread: threading.Thread) -> bool:
    """Return whether the pool of a thread was shut down without waiting for it.

    transformers does this with the pool that reads weights; this package has no such pools.
    """
    arguments = getattr(thread, "_args", ())  # a worker's first argument is a reference to its pool
    if not arguments or not isinstance(arguments[0], weakref.ref):
        return False
    pool = arguments[0]()
    return pool is None or getattr(pool, "_shutdown", False)


def _langchain_threads() -> set[threading.Thread]:
    """Return the threads in which LangChain calls handlers: it ends them with the process."""
    manager: Any = sys.modules.get("langchain_core.callbacks.manager")
    pool = getattr(manager, "_executor", None)
    if pool is None or not pool.cache_info().currsize:
        return set()
    return set(pool()._threads)


def _sockets() -> set[str]:
    """Return the open sockets by inode; empty on systems that do not list them."""
    sockets = set()
    for entry in _SOCKETS.iterdir() if _SOCKETS.exists() else ():
        try:
            target = os.readlink(entry)
        except OSError:  # closed since it was listed, like the descriptor of the listing
            continue
        if target.startswith("socket:"):
            sockets.add(target)
    return sockets


def _pending_futures() -> list[concurrent.futures.Future[Any]]:
    alive = (reference() for reference in _futures)
    return [future for future in alive if future is not None and not future.done()]


def _remaining(find: Callable[[], set[Any] | list[Any]]) -> list[Any]:
    """Return what is found after the grace period, with garbage collected if necessary."""
    if _wait_until_gone(find, _UNCOLLECTED_S):
        gc.collect()
    return _wait_until_gone(find, GRACE_S)


def _wait_until_gone(find: Callable[[], set[Any] | list[Any]], seconds: float) -> list[Any]:
    """Wait until nothing is found, for a number of seconds at most; return what is found."""
    end = time.monotonic() + seconds
    pause = 0.001
    while (objects := find()) and time.monotonic() < end:
        objects = []  # a reference would keep the objects alive
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return list(objects)
