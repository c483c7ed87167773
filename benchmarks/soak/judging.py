"""What became of each request, and whether that is right."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.soak.asking import Answer, Ask
from rerank_plugins.errors import InferenceError

TOLERANCE: Final = 1e-5
_SHOWN: Final = 20


@dataclass
class Tally:
    """Counts of everything.

    Attributes:
        kinds: Requests by who asked.
        outcomes: Requests by what became of them: ``right``, ``partial`` (a deadline), ``failed``
            (a fault was injected), ``cancelled``, ``timed out``, ``refused`` (a broken request),
            ``hung up``, ``stopped`` (with the whole process), ``lost``, ``wrong``.
        problems: The first descriptions of what is wrong or lost.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str) -> None:
        """Count a request that ended as it should."""
        self.kinds[kind] += 1
        self.outcomes[outcome] += 1

    def add_problem(self, kind: str, outcome: str, problem: str) -> None:
        """Count a request that did not, and keep what was wrong."""
        self.add(kind, outcome)
        if len(self.problems) < _SHOWN:
            self.problems.append(f"{kind}: {problem}")

    def add_answer(self, kind: str, ask: Ask, answer: Answer, expected: Sequence[float]) -> None:
        """Count a request that was answered."""
        problem = problem_of(answer, expected, whole=ask.deadline_ms is None)
        if problem is not None:
            self.add_problem(kind, "wrong", problem)
            return
        scored = sum(score is not None for _, score in answer)
        self.documents += scored
        self.add(kind, "right" if scored == len(expected) else "partial")

    def add_error(self, kind: str, error: BaseException, *, fault: bool) -> None:
        """Count a request that raised.

        Args:
            kind: Who asked.
            error: What was raised.
            fault: Whether a fault was injected into a batch with its query.
        """
        if isinstance(error, asyncio.CancelledError):
            self.add(kind, "cancelled")
        elif isinstance(error, asyncio.TimeoutError):
            self.add(kind, "timed out")
        elif isinstance(error, InferenceError) and fault:
            self.add(kind, "failed")
        else:
            self.add_problem(kind, "wrong", f"raised {error!r} without a fault")

    def to_dict(self) -> dict[str, Any]:
        """Return the counts for JSON; lost and wrong are there even if they are 0."""
        return {
            "requests": sum(self.kinds.values()),
            "documents_scored": self.documents,
            "kinds": dict(sorted(self.kinds.items())),
            "outcomes": {"lost": 0, "wrong": 0, **dict(sorted(self.outcomes.items()))},
            "problems": self.problems,
        }


def problem_of(answer: Answer, expected: Sequence[float], *, whole: bool) -> str | None:
    """Return what is wrong with an answer, None if nothing is.

    Args:
        answer: The ranking.
        expected: The score of each document.
        whole: Whether every document must be scored.
    """
    numbers = [number for number, _ in answer]
    if sorted(numbers) != list(range(len(expected))):
        return f"documents {numbers} of {len(expected)}"
    scores = [score for _, score in answer]
    known = [score for score in scores if score is not None]
    behind = numbers[len(known) :]
    off = {
        number: score
        for number, score in zip(numbers, known, strict=False)
        if not abs(score - expected[number]) <= TOLERANCE  # a NaN is never close
    }
    said = {
        f"unscored documents before scored ones: {scores}": scores[: len(known)] != known,
        f"{len(known)} of {len(scores)} are scored, without a deadline": whole and bool(behind),
        f"not the best first: {known}": known != sorted(known, reverse=True),
        f"unscored documents lost their order: {behind}": behind != sorted(behind),
        f"scores {off} of documents that have {list(expected)}": bool(off),
    }
    return next((problem for problem, true in said.items() if true), None)
