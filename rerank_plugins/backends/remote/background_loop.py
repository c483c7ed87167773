"""Event loop in a background thread, for synchronous callers in any number of threads."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final, TypeVar

from rerank_plugins.errors import EngineClosedError

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

_POLL_S: Final = 5.0
"""Interval in which a waiting caller checks that the loop's thread is alive."""

_CLOSE_S: Final = 10.0
"""Time limit of :meth:`BackgroundLoop.close`, once for the cleanup and once for the thread."""


class BackgroundLoop:
    """Runs coroutines on one event loop and returns their results to the calling threads."""

    def __init__(self, name: str) -> None:
        """Start the thread; ``name`` identifies it in error messages."""
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine and return its result.

        Raises:
            EngineClosedError: If the loop is closed, or is closed while the coroutine runs.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                message = f"{self._name} is closed."
                raise EngineClosedError(message)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return self._wait(future)
        except CancelledError as error:
            message = f"{self._name} was closed."
            raise EngineClosedError(message) from error

    def close(self, cleanup: Coroutine[Any, Any, None]) -> None:
        """Cancel all tasks, run a cleanup coroutine and stop the thread; idempotent."""
        with self._lock:
            if self._closed:
                cleanup.close()
                return
            self._closed = True
        try:
            future = asyncio.run_coroutine_threadsafe(_cancel_tasks_then(cleanup), self._loop)
            self._wait(future, _CLOSE_S)
        except (EngineClosedError, FutureTimeout):
            _log.warning("%s did not close its connections in time.", self._name)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
            if not self._thread.is_alive():
                self._loop.close()

    def _wait(self, future: Future[ResultT], seconds: float = math.inf) -> ResultT:
        """Wait for a result while the loop's thread is alive.

        Raises:
            EngineClosedError: If the loop's thread has ended.
            FutureTimeout: If the time limit is exceeded.
        """
        end = time.monotonic() + seconds
        while True:
            # Checked before the wait: a thread may deliver the result and end during it.
            is_alive = self._thread.is_alive()
            try:
                return future.result(min(_POLL_S, max(0.0, end - time.monotonic())))
            except FutureTimeout:
                # Since Python 3.11 this is the builtin TimeoutError, which the coroutine itself
                # may have raised.
                if future.done():
                    return future.result()
                if not is_alive:
                    message = (
                        f"the thread of {self._name} has ended. Close the reranker; its next call "
                        "starts a new engine."
                    )
                    raise EngineClosedError(message) from None
                if time.monotonic() >= end:
                    raise


async def _cancel_tasks_then(cleanup: Coroutine[Any, Any, None]) -> None:
    """Cancel all other tasks, wait until they have ended, then run the cleanup."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await cleanup
