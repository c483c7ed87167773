"""Rows of results, the environment of a measurement, and statistics of timings.

Every measurement yields rows of one schema: suite, system, dataset, metric, value, the bounds of
its 95% interval if it has one, and the environment. They are kept as JSON in
``benchmarks/results``, one file per suite; ``benchmarks/tables.py`` renders them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import distributions, version
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
BUNDLED: Final = ROOT / "rerank_plugins" / "data" / "squad-dev"
"""The retrieval set that ships with the package."""

PACKAGES: Final = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "scikit-learn",
    "langchain-core",
    "llama-index-core",
)
_STAT: Final = Path("/proc/stat")

Measured = float | Sequence[float]
"""A value, or a value with the bounds of its 95% interval: ``(value, low, high)``."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        suite: The measurement; also the name of the file.
        system: The measured system; empty for a property of the dataset.
        dataset: The data or the load.
        metric: The metric, with its unit as a suffix.
        value: The figure.
        low: Lower bound of the 95% interval, if there is one.
        high: Upper bound of the interval.
        environment: Key of the environment in the same file.
    """

    suite: str
    system: str
    dataset: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    environment: str = ""


@dataclass(frozen=True)
class Results:
    """The rows of a suite, and the environments in which they were measured."""

    rows: list[Row]
    environments: dict[str, dict[str, Any]]


def make_rows(
    suite: str, system: str, dataset: str, metrics: Mapping[str, Measured | None]
) -> list[Row]:
    """Return a row per metric; metrics that are None are left out."""
    rows = []
    for metric, value in metrics.items():
        if value is None:
            continue
        number, low, high = (value, None, None) if isinstance(value, (int, float)) else value[:3]
        bounds = (None, None) if low is None or high is None else (float(low), float(high))
        rows.append(Row(suite, system, dataset, metric, float(number), *bounds))
    return rows


def read_results(suite: str, folder: Path = RESULTS) -> Results:
    """Return the stored results of a suite; empty if there are none."""
    file = folder / f"{suite}.json"
    if not file.is_file():
        return Results([], {})
    stored = json.loads(file.read_text("utf-8"))
    return Results([Row(**row) for row in stored["rows"]], stored["environments"])


def save_results(rows: Iterable[Row], environment: dict[str, Any], folder: Path = RESULTS) -> None:
    """Store rows; stored rows of the same system on the same dataset are replaced.

    Args:
        rows: Rows of one or more suites.
        environment: Where the rows were measured; see :func:`describe_environment`.
        folder: The folder of the results.
    """
    key = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:8]
    by_suite: dict[str, list[Row]] = {}
    for row in rows:
        by_suite.setdefault(row.suite, []).append(replace(row, environment=key))
    for suite, new in by_suite.items():
        stored = read_results(suite, folder)
        replaced = {(row.system, row.dataset) for row in new}
        kept = [row for row in stored.rows if (row.system, row.dataset) not in replaced]
        _write(suite, [*kept, *new], {**stored.environments, key: environment}, folder)


def _write(suite: str, rows: Sequence[Row], environments: Mapping[str, Any], folder: Path) -> None:
    used = {row.environment: environments[row.environment] for row in rows}
    lines = ",\n".join(f"  {json.dumps(asdict(row), ensure_ascii=False)}" for row in rows)
    head = json.dumps({"environments": used}, indent=1, ensure_ascii=False).removesuffix("\n}")
    folder.mkdir(parents=True, exist_ok=True)
    text = f'{head},\n "rows": [\n{lines}\n ]\n}}\n'
    (folder / f"{suite}.json").write_text(text, "utf-8")


def describe_environment(*packages: str, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the command, the machine, the versions and the commit.

    Args:
        *packages: Distributions to record besides :data:`PACKAGES`.
        **settings: Settings of the measurement, such as its rounds.
    """
    return {
        "command": _command(),
        "commit": commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": _versions((*PACKAGES, *packages)),
        "settings": settings,
    }


def _command() -> str:
    """Return the command of this process; folders, which differ per machine, as ``DATA``."""
    program = Path(sys.argv[0])
    name = f"-m {program.parent.name}" if program.name == "__main__.py" else program.name
    arguments = (
        "DATA" if os.sep in argument and Path(argument).exists() else argument
        for argument in sys.argv[1:]
    )
    return " ".join(["python", name, *arguments])


def _versions(packages: Iterable[str]) -> dict[str, str]:
    installed = {distribution.name for distribution in distributions()}
    return {package: version(package) for package in packages if package in installed}


def commit() -> str:
    """Return the git commit of the code, with ``+`` if it was changed since; "" without git."""
    git = shutil.which("git")
    if git is None:
        return ""

    def run(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            [git, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = run("status", "--porcelain", "rerank_plugins")
    return run("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor()


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median of the ratios of the rounds.

    Both were timed in the same rounds, so a change of the machine's speed affects both.

    Raises:
        ValueError: If they have different numbers of rounds.
    """
    return median(before / after for before, after in zip(slow, fast, strict=True))


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile and maximum, in milliseconds."""
    values = 1_000 * np.asarray(seconds)
    return {
        "p50_ms": float(np.percentile(values, 50)),
        "p95_ms": float(np.percentile(values, 95)),
        "p99_ms": float(np.percentile(values, 99)),
        "max_ms": float(values.max()),
    }


def process_status(pid: int, name: str) -> int:
    """Return a number of ``/proc/PID/status`` (Linux); memory is in KiB.

    Raises:
        OSError: If the process does not exist.
        RuntimeError: If the kernel does not report the number.
    """
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    match = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    if match is None:
        message = f"the kernel does not report {name} of process {pid}."
        raise RuntimeError(message)
    return int(match[1])


def busy_share(seconds: float = 1.0) -> float | None:
    """Return the share of all cores that other processes use (Linux, else None).

    OpenMP threads wait by spinning, so they lose several times the time that other processes
    use: ratios measured on a busy machine differ from those of an idle machine.
    """
    if not _STAT.is_file():
        return None
    before = _ticks()
    sleep(seconds)
    busy, total = (after - start for after, start in zip(_ticks(), before, strict=True))
    return busy / total


def _ticks() -> tuple[int, int]:
    """Return busy and total time of the cores since the machine started."""
    user, nice, system, idle, *rest = map(int, _STAT.read_text().splitlines()[0].split()[1:9])
    return user + nice + system + sum(rest[1:]), user + nice + system + idle + sum(rest)
