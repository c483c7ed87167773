"""Injects thousands of faults under load and counts: ``python -m benchmarks.reliability.faults``.

Writes ``results/reliability-faults.json``; ``python -m benchmarks.tables`` then renews the table in
``docs/reliability.md``. Each call's fault follows from the seed and the call's number; which
request is in it is up to the threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import BUNDLED, ROOT, environment
from benchmarks.reliability.callers import Callers, Known
from benchmarks.reliability.chaos import FAULTS, Chaos
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import CrossEncoderBackend
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.loading import UserBackend
from rerank_plugins.evaluation.datasets import read_beir
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import TextPair

RESULTS: Final = ROOT / "benchmarks" / "results" / "reliability-faults.json"
COMMAND: Final = "python -m benchmarks.reliability.faults"

_QUESTIONS: Final = 40
_TEXTS: Final = 10
_CACHED_BYTES: Final = 50_000
"""Enough for a part of the pairs, so that faults meet a cache that fills and empties."""


def known_scores(backend: CrossEncoderBackend) -> Known:
    """Return pairs of questions and first sentences, each scored alone, without an engine."""
    data = read_beir(BUNDLED)
    texts = [one.text.partition(". ")[0] for one in data.passages]
    questions = list(data.queries.values())[:_QUESTIONS]
    pairs = [
        TextPair(question, texts[(97 * number + 13 * step) % len(texts)])
        for number, question in enumerate(questions)
        for step in range(_TEXTS)
    ]
    return {pair: float(backend.run(backend.prepare([pair]))[0]) for pair in pairs}


def measure(
    backend: CrossEncoderBackend,
    *,
    requests: int,
    engines: int,
    threads: int = 16,
    rate: float = 0.1,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> dict[str, Any]:
    """Load one engine after the other with requests while their backend fails at random.

    An engine remembers the batch that found memory, so each is soon down to single pairs:
    several of them see more kinds of batches. Each must at last, with the faults over, score
    every pair right.

    Args:
        backend: What is wrapped; it stays open.
        requests: Of each engine.
        engines: How many.
        threads: Callers; every other one runs an event loop.
        rate: Share of the backend's calls that fail.
        tolerance: How far a score may be from that of the pair alone.
        seed: Of faults and requests.
    """
    known = known_scores(backend)
    before, start = threading.active_count(), time.perf_counter()
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    compared = left = right_after = 0
    for number in range(engines):
        chaos = Chaos(backend, seed + number, rate)
        with Engine[TextPair](UserBackend(chaos)) as engine:
            engine.cache.memory.grow(_CACHED_BYTES if number % 2 else 0)
            callers = Callers(engine, known, tolerance)
            callers.ask(requests, threads, seed + number)
            chaos.rate = 0.0
            after = engine.compute(list(known), timeout=60)
            right_after += callers.judge(list(known), after)[0] == "right"
            left += engine.stats().queued_tokens
        faults += chaos.counts
        outcomes += callers.outcomes
        compared += callers.pairs
    return {
        "model": backend.identity.model,
        "dtype": backend.identity.dtype,
        "seed": seed,
        "engines": engines,
        "threads": threads,
        "requests": requests * engines,
        "scores_compared": compared,
        "tolerance": tolerance,
        "faults": {name: faults[name] for name in FAULTS},
        "faults_injected": faults.total(),
        "outcomes": dict(sorted(outcomes.items())),
        "lost": requests * engines - outcomes.total() + outcomes["lost"],
        "wrong": outcomes["wrong"] + outcomes["foreign"],
        "right_after_the_faults": right_after,
        "tokens_left": left,
        "threads_left": threading.active_count() - before,
        "seconds": round(time.perf_counter() - start, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure with words, and with the embedded model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {"command": COMMAND}
    results["words"] = measure(FakeCrossEncoder(), requests=2_000, engines=10)
    mini = TorchCrossEncoder(TorchCrossEncoder.resolve(ModelConfig(dtype="float32")))
    results["mini"] = measure(mini, requests=300, engines=4)
    mini.close()
    results["environment"] = environment()
    chosen.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
