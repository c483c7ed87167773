"""Times of calls that took turns, in few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median of the rounds' ratios.

    Both took their turns in the same rounds, so that a change of the machine's speed meets both.

    Raises:
        ValueError: If they did not take as many turns.
    """
    return median(one / other for one, other in zip(slow, fast, strict=True))


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return milliseconds: median, 95th and 99th percentile, largest."""
    values = 1_000 * np.asarray(seconds)
    return {
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }
