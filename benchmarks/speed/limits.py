"""What the machine gives while systems take turns: its matrix-product limit, and its quiet."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Final

from benchmarks.limit import matmul_limit
from rerank_plugins.backends.devices import fast_bfloat16_on_cpu

_EVERY_S: Final = 25.0
_SECONDS: Final = 0.6
_STAT: Final = Path("/proc/stat")


class Limits:
    """Measures when the last measurement is old, so that there is always one of this minute."""

    def __init__(self, device: str) -> None:
        """Measure nothing yet; data types are those that the device multiplies in hardware."""
        self._device = device
        half = device.startswith("cuda")
        self._dtypes = ["float32", *(["bfloat16"] if half or fast_bfloat16_on_cpu() else [])]
        self._dtypes += ["float16"] if half else []
        self._seen: dict[str, list[float]] = {}
        self._last = 0.0

    def begin(self) -> None:
        """Forget what was measured before, and measure."""
        self._seen = {dtype: [] for dtype in self._dtypes}
        self._last = 0.0
        self.refresh()

    def refresh(self) -> None:
        """Measure if it was not done lately."""
        if self._last and monotonic() - self._last < _EVERY_S:
            return
        for dtype in self._dtypes:
            self._seen[dtype].append(matmul_limit(dtype, _SECONDS, self._device))
        self._last = monotonic()

    def found(self) -> dict[str, float]:
        """Return the median FLOP/s of each data type since :meth:`begin`."""
        return {dtype: median(seen) for dtype, seen in self._seen.items()}


def busy_share(seconds: float = 1.0) -> float | None:
    """Return the share of all cores that is in use while this process sleeps (Linux, else None).

    Threads that wait for each other by spinning, as OpenMP's do, lose several times what others
    take from them, and those of a process that spins less do not: ratios of a busy machine are
    not those of a quiet one.
    """
    if not _STAT.is_file():
        return None
    before = _ticks()
    sleep(seconds)
    busy, total = (after - was for after, was in zip(_ticks(), before, strict=True))
    return busy / total


def _ticks() -> tuple[int, int]:
    """Return how long the cores have been busy, and all time, since the start."""
    user, nice, system, idle, *rest = map(int, _STAT.read_text().splitlines()[0].split()[1:9])
    return user + nice + system + sum(rest[1:]), user + nice + system + idle + sum(rest)
