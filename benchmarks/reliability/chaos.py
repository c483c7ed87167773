"""A backend that fails at random: what it does at its n-th call follows from a seed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from rerank_plugins.engine.backend import CrossEncoderBackend, Prepared
from rerank_plugins.types import FloatArray, TextPair

_SLOW_S: Final = 0.01


def _with(scores: FloatArray, value: float) -> FloatArray:
    """Return the scores with one of them replaced."""
    spoilt = scores.copy()
    spoilt[len(spoilt) // 2] = value
    return spoilt


def _rare(fault: str) -> float:
    """Return how often a fault comes beside the others: a death ends everybody who waits."""
    return 0.1 if fault == "the thread dies" else 1.0


def _late(scores: FloatArray) -> FloatArray:
    time.sleep(_SLOW_S)
    return scores


RAISED: Final[Mapping[str, Callable[[str], BaseException]]] = {
    "an error is raised": OSError,
    "no memory": MemoryError,
    "the thread dies": SystemExit,
}
"""What is raised instead of an answer."""

SPOILT: Final[Mapping[str, Callable[[FloatArray], Any]]] = {
    "a NaN": lambda scores: _with(scores, np.nan),
    "an infinity": lambda scores: _with(scores, -np.inf),
    "a score too few": lambda scores: scores[:-1],
    "a score too many": lambda scores: np.append(scores, np.float32(0)),
    "two columns": lambda scores: np.stack([scores, scores], axis=1),
    "no array": lambda _: "scores",
    "a slow batch": _late,
}
"""What becomes of an answer."""

PREPARED: Final = ("texts cannot be read", "an item is not prepared", "an empty item")
"""What happens to texts before."""

FAULTS: Final = (*RAISED, *SPOILT, *PREPARED)


class Chaos:
    """Spoils what a backend does.

    Attributes:
        counts: How often each fault was injected.
        rate: Share of calls that are spoilt; 0 leaves the backend alone.
    """

    def __init__(self, inner: CrossEncoderBackend, seed: int, rate: float) -> None:
        """Wrap a backend, which whoever made it closes."""
        self.identity, self.scale = inner.identity, inner.scale
        self.batch_tokens, self.padded = inner.batch_tokens, inner.padded
        self.counts: Counter[str] = Counter()
        self.rate = rate
        self._inner = inner
        self._seed = seed
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def prepare(self, items: Sequence[TextPair], max_length: int | None = None) -> list[Prepared]:
        """Prepare items, or not all of them."""
        fault = self._next("prepare", PREPARED)
        if fault == "texts cannot be read":
            raise ValueError(fault)
        prepared = list(self._inner.prepare(items, max_length))
        if fault == "an item is not prepared":
            return prepared[:-1]
        if fault == "an empty item":
            return [*prepared[:-1], replace(prepared[-1], tokens=0)]
        return prepared

    def run(self, batch: Sequence[Prepared]) -> FloatArray:
        """Score a batch, or fail."""
        fault = self._next("run", (*RAISED, *SPOILT))
        if fault in RAISED:
            raise RAISED[fault](fault)
        scores = self._inner.run(batch)
        return SPOILT[fault](scores) if fault in SPOILT else scores

    def close(self) -> None:
        """Leave the wrapped backend open."""

    def _next(self, step: str, faults: Sequence[str]) -> str:
        """Return what goes wrong at this call of a step; mostly nothing, an empty string."""
        with self._lock:
            self._calls[step] += 1
            chance = random.Random(f"{self._seed} {step} {self._calls[step]}")  # noqa: S311
            spoilt = chance.random() < self.rate
            fault = chance.choices(faults, [_rare(one) for one in faults])[0] if spoilt else ""
            if fault:
                self.counts[fault] += 1
            return fault
