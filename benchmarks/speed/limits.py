"""The matrix-product limit of the machine, measured again and again while others take turns."""

from __future__ import annotations

from statistics import median
from time import monotonic
from typing import Final

from benchmarks.limit import matmul_limit
from rerank_plugins.backends._devices import fast_bfloat16_on_cpu

_EVERY_S: Final = 25.0
_SECONDS: Final = 0.6


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
