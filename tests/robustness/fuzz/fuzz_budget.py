"""Budget of a fuzz test: a few examples in each run, many in slow runs, or a number of seconds.

A test decorated with :func:`fuzz` runs with few examples and, marked ``slow``, with many; these
examples are always the same. If ``RERANK_FUZZ_SECONDS`` is set, it instead runs for that time with
random examples and appends their number to the file ``RERANK_FUZZ_COUNTS``, as used by
``python -m benchmarks robustness DATA --suites fuzz``.
"""

from __future__ import annotations

import inspect
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis.strategies import SearchStrategy

SECONDS: Final = float(os.environ.get("RERANK_FUZZ_SECONDS", "0"))
COUNTS: Final = os.environ.get("RERANK_FUZZ_COUNTS")

_SLOW_DATA: Final = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_DATA
)
settings.register_profile(
    "long", deadline=None, database=None, suppress_health_check=_SLOW_DATA, print_blob=True
)
_ROUND: Final = 12
"""Examples between two checks of the time."""

_MAX_ROUND_S: Final = 60.0
"""Longer rounds were suspended by the system; the targets have timeouts of their own."""

BUDGETS: Final = (
    [pytest.param("long", marks=pytest.mark.timeout(10 * SECONDS + 1_800))]
    if SECONDS
    else ["few", pytest.param("many", marks=pytest.mark.slow)]
)


def fuzz(*, few: int, many: int, **strategies: SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Decorate a property test, like :func:`hypothesis.given`, with numbers of examples.

    Args:
        few: Examples in each run; with 0 the test runs only in slow runs.
        many: Examples in a slow run.
        **strategies: Strategies of parameters; other parameters of the function are fixtures.
    """
    budgets = BUDGETS if SECONDS or few else BUDGETS[1:]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(budget: str, **fixtures: Any) -> None:
            count = 0

            def example(**drawn: Any) -> None:
                nonlocal count
                count += 1
                note(f"{drawn!r:.4000}")
                function(**drawn, **fixtures)

            example.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
                [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in strategies]
            )
            example.__name__ = example.__qualname__ = function.__name__
            if budget != "long":
                profile = settings.get_profile("ci")
                examples = {"few": few, "many": many}[budget]
                settings(profile, max_examples=examples)(given(**strategies)(example))()
                assert count >= min(examples, 2)
                return
            clock = Clock()
            passed = False
            try:
                while clock.has_time():
                    _run_round(strategies, example)
                passed = True
            finally:
                _record(function, count, clock.spent, passed=passed)

        run.__name__, run.__doc__, run.__module__ = (
            function.__name__, function.__doc__, function.__module__,
        )  # fmt: skip
        fixtures = [
            name for name in inspect.signature(function).parameters if name not in strategies
        ]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind) for name in ("budget", *fixtures)]
        )
        parametrized = pytest.mark.parametrize("budget", budgets)(run)
        decorated: Callable[..., None] = pytest.mark.filterwarnings(
            "ignore:Generating overly large repr"
        )(parametrized)
        return decorated

    return decorate


def _record(function: Callable[..., None], count: int, seconds: float, *, passed: bool) -> None:
    """Append the result of a target to the file of counts."""
    if COUNTS:
        file = function.__module__.rpartition(".")[2]
        row = {"file": file, "target": function.__name__, "examples": count, "sound": passed}
        with Path(COUNTS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**row, "seconds": round(seconds, 1)}) + "\n")


class Clock:
    """Time of a target.

    Attributes:
        spent: Seconds, without the time in which the process was suspended.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self._last = time.monotonic()

    def has_time(self) -> bool:
        """Return whether there is time for another round."""
        now = time.monotonic()
        self.spent += min(now - self._last, _MAX_ROUND_S)
        self._last = now
        return self.spent < SECONDS


def _run_round(strategies: Any, example: Callable[..., None]) -> None:
    """Run some random examples."""
    profile = settings.get_profile("long")
    run = settings(profile, max_examples=_ROUND)(given(**strategies)(example))
    seed(secrets.randbits(64))(run)()
