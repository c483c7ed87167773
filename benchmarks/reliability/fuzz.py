"""Fuzzes every target for a while: ``python -m benchmarks.reliability.fuzz --minutes 60``.

The targets are the tests of ``tests/fuzz``, with random examples instead of always the same;
each gets the same share of the minutes. Writes ``results/reliability-fuzz.json``; ends with an
error if a target failed, and shows the example, shrunk, with which it did.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import ROOT, environment

RESULTS: Final = Path(__file__).parents[1] / "results" / "reliability-fuzz.json"
_PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "long")


def fuzz(minutes: float, tests: str) -> tuple[dict[str, Any], int]:
    """Return what was tried, and pytest's exit status.

    Args:
        minutes: For all targets together; making models and servers comes on top.
        tests: The folder of the targets, one of its files, or one of them.
    """
    shown = _run([*_PYTEST, "--collect-only", tests], seconds=1, capture=True).stdout
    targets = shown.count("[long") or 1
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        seconds = max(1.0, minutes * 60 / targets)
        done = _run([*_PYTEST, tests], seconds=seconds, counts=counts)
        lines = counts.read_text("utf-8").splitlines() if counts.exists() else []
    found: dict[str, dict[str, Any]] = {}
    for one in map(json.loads, lines):
        name = one["target"]
        before = found.setdefault(name, {"file": one["file"], "examples": 0, "seconds": 0.0})
        before["examples"] += one["examples"]
        before["seconds"] = round(before["seconds"] + one["seconds"], 1)
        before["sound"] = before.get("sound", True) and one["sound"]
    return found, done.returncode


def _run(
    command: Sequence[str], *, seconds: float, counts: Path | None = None, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    kind = {**os.environ, "RERANK_FUZZ_SECONDS": str(seconds)}
    if counts is not None:
        kind["RERANK_FUZZ_COUNTS"] = str(counts)
    return subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=kind, check=False, text=True, capture_output=capture
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz, and store what was tried."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--tests", default="tests/fuzz")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    targets, status = fuzz(chosen.minutes, chosen.tests)
    found = {
        "command": f"python -m benchmarks.reliability.fuzz --minutes {chosen.minutes:g}",
        "targets": targets,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "environment": environment(),
    }
    chosen.output.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    sys.exit(status)


if __name__ == "__main__":
    main()
