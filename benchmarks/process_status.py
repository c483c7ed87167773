"""What the kernel says of a process (Linux)."""

from __future__ import annotations

import re
from pathlib import Path


def status(pid: int, name: str) -> int:
    """Return a number of ``/proc/PID/status``; memory is in KiB.

    Raises:
        OSError: If there is no such process.
        RuntimeError: If the kernel does not say it.
    """
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    if found is None:
        message = f"the system does not say {name} of process {pid}."
        raise RuntimeError(message)
    return int(found[1])
