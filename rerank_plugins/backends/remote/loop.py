"""An event loop in a thread, for callers that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from rerank_plugins.errors import EngineClosedError

ResultT = TypeVar("ResultT")


class LoopThread:
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
            return future.result()
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
            asyncio.run_coroutine_threadsafe(_after_all(last), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _after_all(last: Coroutine[Any, Any, None]) -> None:
    """Cancel every other task, wait for their ends, then run the last coroutine."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last
