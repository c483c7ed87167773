"""Measures what concurrent callers get: ``python -m benchmarks.concurrency [MEASURE ...]``.

Writes ``results/concurrency.json``; measures that are not named keep the results they have
there. ``python -m benchmarks.tables`` then renews the table in ``docs/concurrency.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import environment
from benchmarks.load.equality import measure_equality
from benchmarks.load.latency import measure_latency, measure_loop_lag
from benchmarks.load.memory import measure_adapters, measure_soak
from benchmarks.load.throughput import measure_overlap, measure_throughput

RESULTS: Final = Path(__file__).parent / "results" / "concurrency.json"

MEASURES: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "adapters": measure_adapters,
    "throughput": measure_throughput,
    "latency": measure_latency,
    "loop_lag": measure_loop_lag,
    "overlap": measure_overlap,
    "equality": measure_equality,
    "soak": measure_soak,
}
QUICK: Final[dict[str, dict[str, Any]]] = {
    "adapters": {"adapters": 5},
    "throughput": {"callers": 8, "documents": 5, "size": "sentence"},
    "latency": {"job_pairs": 400, "repeats": 4, "size": "sentence"},
    "loop_lag": {"callers": 8, "requests": 2, "documents": 5},
    "overlap": {"pairs": 200},
    "equality": {"requests": 200, "threads": 20, "pool": 100},
    "soak": {"seconds": 10.0},
}
"""Sizes at which everything takes a minute, to see that it works; the figures say little."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run measures and store their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.measures) - MEASURES.keys()
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such measure; there are {', '.join(MEASURES)}")
    for name in chosen.measures or MEASURES:
        found = MEASURES[name](**(QUICK[name] if chosen.quick else {}))
        store(chosen.output, name, found)
        sys.stdout.write(f"{name}: {json.dumps(found, indent=2)}\n")


def store(file: Path, name: str, found: dict[str, Any]) -> None:
    """Put one measure's results into the file, with the environment they were taken in."""
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results[name] = {**found, "environment": environment()}
    file.parent.mkdir(parents=True, exist_ok=True)
    ordered = {known: results[known] for known in MEASURES if known in results}
    file.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
