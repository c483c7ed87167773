"""How much memory a piece of work took at its peak."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"
"""What resets the high-water mark (Linux, proc_pid_clear_refs(5))."""

_MIB: Final = 2**20


class PeakMemory:
    """The highest memory of this process, and on CUDA devices, since it was made.

    Resident memory is known on Linux alone: elsewhere the high-water mark cannot be reset,
    and one that began before says nothing of this piece of work.
    """

    def __init__(self) -> None:
        """Reset the high-water marks."""
        self._linux = _write(_CLEAR, _RESET_PEAK)
        self._devices = _cuda_devices()
        for device in self._devices:
            sys.modules["torch"].cuda.reset_peak_memory_stats(device)

    @property
    def resident_mib(self) -> float | None:
        """Most memory in RAM since then, MiB; None where the system does not tell."""
        if not self._linux:
            return None
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(fields["VmHWM"].split()[0]) / 1024

    @property
    def cuda_mib(self) -> float | None:
        """Most memory allocated by torch on all CUDA devices, MiB; None without one in use."""
        if not self._devices:
            return None
        cuda = sys.modules["torch"].cuda
        return float(sum(cuda.max_memory_allocated(device) for device in self._devices) / _MIB)


def _write(file: Path, text: str) -> bool:
    try:
        file.write_text(text, encoding="ascii")
    except OSError:
        return False
    return True


def _cuda_devices() -> range:
    """Return the devices that torch uses, without loading it or waking CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return range(0)
    return range(torch.cuda.device_count())
