"""Time that a process was stopped for (Ctrl-Z, a debugger, a laptop's lid): nobody's fault."""

from __future__ import annotations

import threading
import time
from typing import Final

_BEAT_S: Final = 0.1
LONGEST_S: Final = 3.0
"""A silence that is longer is no scheduler's doing."""


class Pulse(threading.Thread):
    """Beats in the background; a long silence says that the whole process stood still."""

    def __init__(self) -> None:
        """Start to beat."""
        super().__init__(name="pulse", daemon=True)
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self._stopped_s = 0.0
        self._last = time.monotonic()
        self.start()

    @property
    def stopped_s(self) -> float:
        """Seconds that the process has stood still in all."""
        with self._guard:
            now = time.monotonic()
            if now - self._last > LONGEST_S:
                self._stopped_s += now - self._last
            self._last = now
            return self._stopped_s

    @property
    def running_s(self) -> float:
        """Seconds of a clock that stands still with the process."""
        return time.monotonic() - self.stopped_s

    def run(self) -> None:
        """Beat until the end."""
        while not self._ended.wait(_BEAT_S):
            self.stopped_s  # noqa: B018  (looking is beating)

    def end(self) -> None:
        """Stop beating."""
        self._ended.set()
        self.join()
