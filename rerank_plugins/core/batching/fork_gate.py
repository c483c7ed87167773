"""Keeps forks and disk access apart.

SQLite counts its locks in the process. A child forked while a database is open would
believe that it holds the parent's locks, and could hang on a mutex that nobody releases there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

_PATIENCE_S: Final = 5.0
"""How long a fork waits for the disk at most; an access takes milliseconds."""


class ForkGate:
    """Lets disk accesses in while nobody forks; a fork waits until they are out."""

    def __init__(self) -> None:
        """Start open."""
        self._free = threading.Condition()
        self._inside = 0
        self._unsafe = False

    @contextmanager
    def access(self) -> Iterator[None]:
        """Enter for one access, in which everything that is opened is closed again.

        Raises:
            OSError: If this process was forked in the middle of one of its parent's.
        """
        if self._unsafe:
            message = "this process was forked while its parent used the disk"
            raise OSError(message)
        with self._free:
            self._inside += 1
        try:
            yield
        finally:
            with self._free:
                self._inside -= 1
                self._free.notify_all()

    def before_fork(self) -> None:
        """Hold newcomers up and wait for those inside."""
        self._free.acquire()
        self._free.wait_for(lambda: not self._inside, _PATIENCE_S)

    def in_parent(self) -> None:
        """Let newcomers in again."""
        self._free.release()

    def in_child(self) -> None:
        """Start anew; if the parent was inside for too long, stay shut."""
        self._unsafe = self._unsafe or self._inside > 0
        self._inside = 0
        self._free = threading.Condition()


_gate: Final = ForkGate()


def disk_access() -> AbstractContextManager[None]:
    """Return the context in which this process may have a database open; see :class:`ForkGate`."""
    return _gate.access()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_gate.before_fork, after_in_parent=_gate.in_parent, after_in_child=_gate.in_child
    )
