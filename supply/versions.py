"""Keeps which versions passed the tests: ``python -m supply.versions NAME REPORT.xml ...``.

Run by the Python of the environment that was tested, on the reports that pytest wrote there
(``--junitxml``). ``python -m benchmarks.tables`` then renews the table in
``docs/compatibility.md``.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from packaging.requirements import Requirement

from benchmarks.environment import commit
from supply.closure import EXTRAS, PROJECT

RESULTS: Final = Path(__file__).parents[1] / "benchmarks" / "results" / "versions.json"


def direct() -> dict[str, str]:
    """Return the version of each dependency that we name ourselves and that is installed."""
    found = {}
    for line in requires(PROJECT) or ():
        needed = Requirement(line)
        wanted = needed.marker is None or any(
            needed.marker.evaluate({"extra": extra}) for extra in EXTRAS
        )
        if not wanted or needed.name == PROJECT:
            continue
        try:
            found[needed.name] = version(needed.name)
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items(), key=lambda one: one[0].lower()))


def counts(reports: list[Path]) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped.

    Raises:
        ValueError: If no test ran.
    """
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for report in reports:
        for case in ET.parse(report).iter("testcase"):  # noqa: S314  (pytest's own)
            kinds = {part.tag for part in case}
            failed, skipped = kinds & {"failure", "error"}, "skipped" in kinds
            found["failed" if failed else "skipped" if skipped else "passed"] += 1
    if not found["passed"] + found["failed"]:
        message = f"no test ran in {', '.join(map(str, reports))}."
        raise ValueError(message)
    return found


def keep(name: str, reports: list[Path], file: Path = RESULTS) -> dict[str, Any]:
    """Put what this environment showed into the results."""
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept[name] = {
        "python": platform.python_version(),
        "tests": counts(reports),
        "packages": direct(),
        "commit": commit(),
    }
    kept = dict(sorted(kept.items()))
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept


if __name__ == "__main__":
    keep(sys.argv[1], [Path(one) for one in sys.argv[2:]])
