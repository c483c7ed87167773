"""Scripts that run in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_script(
    script: str, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process, with warnings as errors."""
    # Let torch choose the number of threads: a fork is dangerous only with several.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(  # noqa: S603  (a script of the tests)
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=inherited | environment,
    )
