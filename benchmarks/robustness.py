"""Fault injection into backends, and fuzzing."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.common import BUNDLED, ROOT, Row, make_rows
from benchmarks.fault_injection import FAULTS, CheckingClients, FaultyBackend
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import CrossEncoderBackend
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.loading import UserBackend
from rerank_plugins.evaluation import read_beir
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import TextPair

_QUERIES: Final = 40
_TEXTS: Final = 10
_CACHE_BYTES: Final = 50_000
"""Enough for some of the pairs, so that faults meet a cache that fills and empties."""

_PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "long")


def known_scores(backend: CrossEncoderBackend, folder: Path = BUNDLED) -> dict[TextPair, float]:
    """Return pairs of queries and first sentences, each scored alone, without an engine."""
    data = read_beir(folder)
    texts = [passage.text.partition(". ")[0] for passage in data.passages]
    pairs = [
        TextPair(query, texts[(97 * number + 13 * step) % len(texts)])
        for number, query in enumerate(list(data.queries.values())[:_QUERIES])
        for step in range(_TEXTS)
    ]
    return {pair: float(backend.run(backend.prepare([pair]))[0]) for pair in pairs}


def inject_faults(
    backend: CrossEncoderBackend,
    *,
    requests: int,
    engines: int,
    threads: int = 16,
    rate: float = 0.1,
    tolerance: float = 1e-4,
    seed: int = 0,
    folder: Path = BUNDLED,
) -> dict[str, Any]:
    """Send requests to several engines, one after the other, while their backend fails at random.

    An engine remembers the batch size that fits the memory, so each soon runs single pairs;
    several engines run more kinds of batches. At the end, without faults, each engine must score
    every pair correctly.

    Args:
        backend: The wrapped backend; it stays open.
        requests: Requests per engine.
        engines: Number of engines.
        threads: Callers; every second one runs an event loop.
        rate: Share of the backend's calls that fail.
        tolerance: Largest accepted difference to the score of the pair alone.
        seed: Seed of faults and requests.
        folder: The set of the texts.

    Returns:
        ``outcomes`` and injected ``faults`` by name, and counts.
    """
    known = known_scores(backend, folder)
    before = threading.active_count()
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    compared = queued = right_after = 0
    for number in range(engines):
        faulty = FaultyBackend(backend, seed + number, rate)
        with Engine[TextPair](UserBackend(faulty)) as engine:
            engine.cache.memory.grow(_CACHE_BYTES if number % 2 else 0)
            clients = CheckingClients(engine, known, tolerance)
            clients.send(requests, threads, seed + number)
            faulty.rate = 0.0
            after = engine.compute(list(known), timeout=60)
            right_after += clients.check(list(known), after)[0] == "right"
            queued += engine.stats().queued_tokens
        faults += faulty.counts
        outcomes += clients.outcomes
        compared += clients.scores_compared
    return {
        "faults": {name: faults[name] for name in FAULTS},
        "outcomes": dict(outcomes),
        "requests": requests * engines,
        "lost": requests * engines - outcomes.total() + outcomes["lost"],
        "wrong": outcomes["wrong"] + outcomes["foreign"],
        "scores_compared": compared,
        "engines": engines,
        "right_after_the_faults": right_after,
        "tokens_left": queued,
        "threads_left": threading.active_count() - before,
    }


def fault_rows(name: str, result: dict[str, Any]) -> list[Row]:
    """Return the rows of :func:`inject_faults`."""
    faults, outcomes = result["faults"], result["outcomes"]
    counts = {key: value for key, value in result.items() if key not in ("faults", "outcomes")}
    kinds = {"right": "right", "partial": "partly", "error": "error", "cancelled": "cancelled"}
    metrics = {
        "faults": sum(faults.values()),
        **{metric: outcomes.get(outcome, 0) for metric, outcome in kinds.items()},
        **counts,
    }
    rows = make_rows("faults", name, "all", metrics)
    for fault, count in faults.items():
        rows += make_rows("faults", name, fault, {"injected": count})
    return rows


def measure_faults(folder: Path = BUNDLED) -> Iterator[list[Row]]:
    """Yield the outcomes with a backend that counts words, then with the embedded model."""
    words = inject_faults(FakeCrossEncoder(), requests=2_000, engines=10, folder=folder)
    yield fault_rows("backend that counts words", words)
    mini = TorchCrossEncoder(TorchCrossEncoder.resolve(ModelConfig(dtype="float32")))
    yield fault_rows("mini, torch", inject_faults(mini, requests=300, engines=4, folder=folder))
    mini.close()


def fuzz(minutes: float, tests: str = "tests/robustness/fuzz") -> tuple[list[Row], int]:
    """Run the fuzz targets with random examples, each for an equal share of the time.

    Args:
        minutes: Time of all targets together, without the start of models and servers.
        tests: The folder of the targets, one of its files, or a single target.

    Returns:
        The rows, and pytest's exit status; pytest prints the smallest failing example.
    """
    listed = _run([*_PYTEST, "--collect-only", tests], seconds=1, capture=True).stdout
    targets = listed.count("[long") or 1
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        done = _run([*_PYTEST, tests], seconds=max(1.0, minutes * 60 / targets), counts=counts)
        lines = counts.read_text("utf-8").splitlines() if counts.exists() else []
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    for target in map(json.loads, lines):
        name = target["target"].removeprefix("test_").replace("_", " ")
        key = name, f"tests/robustness/fuzz/{target['file']}.py"
        total = metrics.setdefault(key, {"inputs": 0, "minutes": 0.0, "held": True})
        total["inputs"] += target["examples"]
        total["minutes"] += target["seconds"] / 60
        total["held"] = bool(total["held"] and target["sound"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    rows = make_rows("fuzz", "", "all", {"peak_mib": peak})
    for (name, file), total in metrics.items():
        rows += make_rows("fuzz", name, file, total)
    return rows, done.returncode


def _run(
    command: Sequence[str], *, seconds: float, counts: Path | None = None, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RERANK_FUZZ_SECONDS": str(seconds)}
    if counts is not None:
        environment["RERANK_FUZZ_COUNTS"] = str(counts)
    return subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=environment, check=False, text=True, capture_output=capture
    )
