"""How hard a target is fuzzed: a few examples in every run, more when it is slow, or for minutes.

A test marked by :func:`fuzz` runs twice, with few examples and (marked ``slow``) with many,
always the same ones. With ``RERANK_FUZZ_SECONDS`` set it runs for that long instead, with
random ones, and appends how many to the file that ``RERANK_FUZZ_COUNTS`` names; that is what
``python -m benchmarks robustness DATA --suites fuzz`` does.
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
"""Examples between two looks at the clock."""

_LONGEST_S: Final = 60.0
"""A round that takes longer was stopped meanwhile; the targets have bounds of their own."""

EFFORTS: Final = (
    [pytest.param("long", marks=pytest.mark.timeout(10 * SECONDS + 1_800))]
    if SECONDS
    else ["few", pytest.param("many", marks=pytest.mark.slow)]
)


def fuzz(*, few: int, many: int, **strategies: SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Make a test of a property, as :func:`hypothesis.given` does, with so many examples.

    Args:
        few: Examples of every run; 0 runs it only when it may be slow.
        many: Examples of a slow run.
        **strategies: What to draw; the function's other parameters are fixtures.
    """
    efforts = EFFORTS if SECONDS or few else EFFORTS[1:]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(effort: str, **fixtures: Any) -> None:
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
            if effort != "long":
                profile = settings.get_profile("ci")
                examples = {"few": few, "many": many}[effort]
                settings(profile, max_examples=examples)(given(**strategies)(example))()
                assert count >= min(examples, 2)
                return
            clock = Clock()
            sound = False
            try:
                while clock.left():
                    _round(strategies, example)
                sound = True
            finally:
                _note(function, count, clock.spent, sound=sound)

        run.__name__, run.__doc__, run.__module__ = (
            function.__name__, function.__doc__, function.__module__,
        )  # fmt: skip
        others = [name for name in inspect.signature(function).parameters if name not in strategies]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind) for name in ("effort", *others)]
        )
        quiet = pytest.mark.filterwarnings("ignore:Generating overly large repr")
        marked: Callable[..., None] = quiet(pytest.mark.parametrize("effort", efforts)(run))
        return marked

    return decorate


def _note(function: Callable[..., None], count: int, seconds: float, *, sound: bool) -> None:
    """Append to the file of counts what became of a target."""
    if COUNTS:
        file = function.__module__.rpartition(".")[2]
        found = {"file": file, "target": function.__name__, "examples": count, "sound": sound}
        with Path(COUNTS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**found, "seconds": round(seconds, 1)}) + "\n")


class Clock:
    """A target's time.

    Attributes:
        spent: Seconds, without those in which the process was stopped.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self._last = time.monotonic()

    def left(self) -> bool:
        """Return whether there is time for another round."""
        now = time.monotonic()
        self.spent += min(now - self._last, _LONGEST_S)
        self._last = now
        return self.spent < SECONDS


def _round(strategies: Any, example: Callable[..., None]) -> None:
    """Run some random examples."""
    profile = settings.get_profile("long")
    run = settings(profile, max_examples=_ROUND)(given(**strategies)(example))
    seed(secrets.randbits(64))(run)()
