"""Event loop in a background thread."""

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
"""How often a caller looks whether the loop's thread still lives."""

_CLOSE_S: Final = 10.0
"""How long closing waits, once for the last work and once for the thread."""


class BackgroundLoop:
    """Runs coroutines for any number of threads, all on one event loop."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine and return its result.

        Raises:
            EngineClosedError: If the loop is closed, or is being closed.
        """
        with self._lock:
            if self._closed:
                work.close()
                message = f"{self._name} is closed."
                raise EngineClosedError(message)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return self._wait(future)
        except CancelledError as error:
            message = f"{self._name} was closed."
            raise EngineClosedError(message) from error

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what runs, run a last coroutine, and stop; once."""
        with self._lock:
            if self._closed:
                last.close()
                return
            self._closed = True
        try:
            self._wait(asyncio.run_coroutine_threadsafe(_after_all(last), self._loop), _CLOSE_S)
        except (EngineClosedError, FutureTimeout):
            _log.warning("%s did not close its connections in time.", self._name)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
            if not self._thread.is_alive():
                self._loop.close()

    def _wait(self, future: Future[ResultT], seconds: float = math.inf) -> ResultT:
        """Wait for a result as long as somebody is there to bring it.

        Raises:
            EngineClosedError: If the loop's thread is gone.
            FutureTimeout: If the time is up.
        """
        end = time.monotonic() + seconds
        while True:
            alive = self._thread.is_alive()  # before the wait: the result may come with its end
            try:
                return future.result(min(_POLL_S, max(0.0, end - time.monotonic())))
            except FutureTimeout:
                # Since Python 3.11 it is the builtin one, which the work itself may have raised.
                if future.done():
                    return future.result()
                if not alive:
                    message = f"the thread of {self._name} has ended. Ask for a new engine."
                    raise EngineClosedError(message) from None
                if time.monotonic() >= end:
                    raise


async def _after_all(last: Coroutine[Any, Any, None]) -> None:
    """Cancel every other task, wait for their ends, then run the last coroutine."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last
