"""Measures the Ray Serve application: ``python -m benchmarks.ray_scaling [MEASURE ...]``.

``throughput`` is pairs a second with one and two replicas, in turns, of passages, whose scoring
costs more than what a call costs around it; ``kill`` is what callers
see when a scoring replica or an ingress replica is killed under load. On a cluster of two
nodes on this machine, one core and one torch thread a replica. Writes ``results/ray.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import environment
from benchmarks.load.work import texts
from tests.ray.live import configuration, free_port, replicas, serve_run, two_nodes, wait_until
from tests.ray.load import Load

RESULTS: Final = Path(__file__).parent / "results" / "ray.json"
CLIENTS: Final = 8
_PASSAGES: Final = 16
_ARGS: Final[dict[str, Any]] = {"embedding_model": None, "num_cpus": 1}


class _Application:
    def __init__(self, address: str, folder: Path) -> None:
        self._address, self._file, self._port = address, folder / "serve.yaml", free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def scale(self, count: int) -> None:
        config = configuration(self._port, replicas=count, **_ARGS)
        serve_run(self._address, self._file, config)
        wait_until(lambda: len(replicas("Reranker")) == count, 120)


def measure_throughput(app: _Application, seconds: float, rounds: int) -> dict[str, Any]:
    """Return pairs a second with one and with two replicas, and the ratio."""
    passages = texts("passage")[:_PASSAGES]
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, speeds in found.items():
            app.scale(count)
            with Load(app.url, CLIENTS, passages) as load:
                _warmed_up(load)
                before, start = load.calls, time.perf_counter()
                time.sleep(seconds)
                speeds.append((load.calls - before) * _PASSAGES / (time.perf_counter() - start))
            if load.failures:
                raise RuntimeError(load.failures[0])
    one, two = (statistics.median(speeds) for speeds in found.values())
    return {
        "pairs_per_second": {str(count): speeds for count, speeds in found.items()},
        "ratio": two / one,
        "clients": CLIENTS,
        "documents": _PASSAGES,
        "environment": environment(),
    }


def _warmed_up(load: Load) -> None:
    wait_until(lambda: load.calls > 2 * CLIENTS, 60)


def measure_kill(app: _Application, seconds: float, rounds: int) -> dict[str, Any]:
    """Return calls and failed calls when a process is killed once a round."""
    app.scale(2)
    found: dict[str, Any] = {}
    for deployment in ("Reranker", "Ingress"):
        calls = failed = 0
        for _ in range(rounds):
            with Load(app.url, CLIENTS) as load:
                time.sleep(seconds / 2)
                os.kill(replicas(deployment)[0], signal.SIGKILL)
                time.sleep(seconds / 2)
                wait_until(lambda: len(replicas(deployment)) == 2, 120)  # noqa: B023, PLR2004
            calls, failed = calls + load.calls, failed + len(load.failures)
        found[deployment] = {"kills": rounds, "calls": calls, "failed": failed}
    return {**found, "clients": CLIENTS, "environment": environment()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run measures and store their results."""
    measures = {"throughput": measure_throughput, "kill": measure_kill}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(measures))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    with two_nodes() as address, tempfile.TemporaryDirectory() as folder:
        app = _Application(address, Path(folder))
        for name in chosen.measures or measures:
            before = json.loads(chosen.output.read_text("utf-8")) if chosen.output.exists() else {}
            found = {**before, name: measures[name](app, chosen.seconds, chosen.rounds)}
            chosen.output.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
            sys.stdout.write(f"{name}: {json.dumps(found[name], indent=2)}\n")


if __name__ == "__main__":
    main()
