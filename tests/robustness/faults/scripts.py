"""Scripts in a process of their own, for what would spoil the tests' own process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_script(
    script: str, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code; warnings are errors there too."""
    # As many threads as torch chooses: several are what makes a fork dangerous.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(  # noqa: S603  (our own script)
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=inherited | environment,
    )
