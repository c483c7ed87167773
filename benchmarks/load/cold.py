"""A backend in a fresh process: ``python -m benchmarks.load.cold '{"model": "mini"}'``.

Imports nothing heavy before the clock runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any


def measure_cold(settings: dict[str, Any], documents: int, repeats: int) -> dict[str, float]:
    """Load a model and score with it.

    Args:
        settings: Keyword arguments of a Reranker.
        documents: Documents of a request.
        repeats: Requests after the first.

    Returns:
        Seconds from a bare interpreter to the first score, milliseconds of a warm request
        (median), and MiB in RAM then and at most.
    """
    start = time.perf_counter()
    from rerank_plugins import Reranker  # noqa: PLC0415

    reranker = Reranker(device="cpu", **settings)
    reranker.rank("who wrote it?", ["It rains."])
    first = time.perf_counter() - start

    from benchmarks.load.work import make_work  # noqa: PLC0415

    times = []
    for work in make_work(repeats, documents, "passage"):
        start = time.perf_counter()
        reranker.rank(work.query, work.documents)
        times.append(time.perf_counter() - start)
    return {
        "first_score_s": first,
        "warm_ms": 1e3 * median(times),
        "resident_mib": _status("VmRSS"),
        "peak_mib": _status("VmHWM"),
    }


def _status(name: str) -> float:
    """Return one of the kernel's numbers on this process, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    measured = measure_cold(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    os.write(1, json.dumps(measured).encode())
