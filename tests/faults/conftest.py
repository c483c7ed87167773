"""No test of this folder may leave a thread, a future, a task or a socket."""

from __future__ import annotations

from tests.leaks import no_tasks_left, nothing_left, pytest_runtest_teardown

__all__ = ["no_tasks_left", "nothing_left", "pytest_runtest_teardown"]
