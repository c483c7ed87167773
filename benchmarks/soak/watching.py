"""Memory, threads and open files of processes over time, and whether they stay (Linux)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.stats import theilslopes

from benchmarks.process_status import status

WARM_UP: Final = 1 / 3
"""Share of the time that is not judged: allocators, pools and caches fill."""

MOST_MIB_AN_HOUR: Final = 16.0
"""Memory is flat if its growth is below this with 97.5% confidence."""

MOST_MORE: Final = 0.5
"""Threads or files: a single one that is lost half-way would show."""


class Sample(NamedTuple):
    """What a process has at a moment."""

    seconds: float
    resident_mib: float
    threads: int
    open_files: int


def sample(pid: int, seconds: float) -> Sample:
    """Look at a process."""
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(seconds, status(pid, "VmRSS") / 1024, status(pid, "Threads"), files)


def judged(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return how a process's memory, threads and files went after the warm-up.

    The slope is Theil and Sen's, the median over all pairs of samples, with the bounds of its
    95% interval (Sen 1968, as ``scipy.stats.theilslopes`` has it): one spike does not move it.
    Threads and files come and go with connections: they stay if the mean of the second half is
    at most :data:`MOST_MORE` above that of the first.
    """
    end = samples[-1].seconds
    settled = [one for one in samples if one.seconds >= WARM_UP * end]
    hours = np.array([one.seconds for one in settled]) / 3600
    memory = np.array([one.resident_mib for one in settled])
    slope, _, low, high = theilslopes(memory, hours)
    half = len(settled) // 2
    found: dict[str, Any] = {
        "resident_mib": {
            "after_warm_up": float(memory[0]),
            "end": float(memory[-1]),
            "largest": float(memory.max()),
        },
        "mib_an_hour": {"slope": float(slope), "low": float(low), "high": float(high)},
        "memory_flat": bool(high < MOST_MIB_AN_HOUR),
    }
    for name in ("threads", "open_files"):
        counts = np.array([getattr(one, name) for one in settled])
        first, second = counts[:half], counts[half:]
        found[name] = {
            "first_half": {"mean": float(first.mean()), "most": int(first.max())},
            "second_half": {"mean": float(second.mean()), "most": int(second.max())},
        }
        found[f"{name}_flat"] = bool(second.mean() <= first.mean() + MOST_MORE)
    return found


def rows(samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[list[float]]]:
    """Return all samples for JSON, ``[seconds, MiB, threads, files]`` each."""
    return {
        name: [[round(value, 1) for value in one] for one in some] for name, some in samples.items()
    }
