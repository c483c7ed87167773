"""Ray: replicas of a Serve application, killed replicas, and a batch over actors."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.clients import texts
from benchmarks.common import BUNDLED, Row, make_rows
from rerank_plugins import Reranker
from rerank_plugins.evaluation import RetrievalSet, read_beir
from tests.ray.live import configuration, free_port, replicas, serve_run, two_nodes, wait_until
from tests.ray.load import Load

CLIENTS: Final = 8
PASSAGES: Final = 16
_ARGUMENTS: Final[dict[str, Any]] = {"embedding_model": None, "num_cpus": 1}

BATCH_DOCUMENTS: Final = 100
BATCH_WORDS: Final = 24
"""Passages are truncated to this many words, about 32 tokens."""

INVALID_EVERY: Final = 100
CHECKED: Final = 5
_SEED: Final = 7


class Application:
    """The Ray Serve application on two nodes of this machine, one core per replica."""

    def __init__(self, address: str, folder: Path) -> None:
        """Take the address of the cluster and a folder for the configuration."""
        self._address, self._file, self._port = address, folder / "serve.yaml", free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def scale(self, count: int) -> None:
        """Run this many scoring replicas."""
        settings = configuration(self._port, replicas=count, **_ARGUMENTS)
        serve_run(self._address, self._file, settings)
        wait_until(lambda: len(replicas("Reranker")) == count, 120)


def measure_ray(folder: Path = BUNDLED, *, seconds: float = 20.0, rounds: int = 3) -> list[Row]:
    """Measure throughput with one and two replicas, and failed calls when one is killed."""
    with two_nodes() as address, tempfile.TemporaryDirectory() as work:
        application = Application(address, Path(work))
        rows = _scaling_rows(application, texts("passage", folder)[:PASSAGES], seconds, rounds)
        return rows + _kill_rows(application, seconds, rounds)


def _scaling_rows(
    application: Application, passages: tuple[str, ...], seconds: float, rounds: int
) -> list[Row]:
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, measured in speeds.items():
            application.scale(count)
            with Load(application.url, CLIENTS, passages) as load:
                while load.calls <= 2 * CLIENTS:  # warm up
                    time.sleep(0.1)
                before, start = load.calls, time.perf_counter()
                time.sleep(seconds)
                pairs = (load.calls - before) * PASSAGES
                measured.append(pairs / (time.perf_counter() - start))
            if load.failures:
                raise RuntimeError(load.failures[0])
    single, double = (median(measured) for measured in speeds.values())
    dataset = f"{CLIENTS} clients, {PASSAGES} passages per call"
    rows = make_rows("ray", "1 replica", dataset, {"pairs_per_s": single})
    return rows + make_rows(
        "ray", "2 replicas", dataset, {"pairs_per_s": double, "ratio": double / single}
    )


def _kill_rows(application: Application, seconds: float, rounds: int) -> list[Row]:
    application.scale(2)
    rows = []
    for deployment, name in {"Reranker": "scoring replica", "Ingress": "ingress replica"}.items():
        calls = failed = 0
        for _ in range(rounds):
            with Load(application.url, CLIENTS) as load:
                time.sleep(seconds / 2)
                os.kill(replicas(deployment)[0], signal.SIGKILL)
                time.sleep(seconds / 2)
                while len(replicas(deployment)) < 2:  # noqa: PLR2004
                    time.sleep(0.1)
            calls, failed = calls + load.calls, failed + len(load.failures)
        metrics = {"kills": rounds, "calls": calls, "failed": failed}
        rows += make_rows("ray", name, "`kill -9` of one of two under load", metrics)
    return rows


def measure_batch(folder: Path = BUNDLED, *, pairs: int = 100_000, actors: int = 2) -> list[Row]:
    """Rank pairs by a pool of Ray actors, check some of them, and resume the finished batch."""
    import ray  # noqa: PLC0415  (an extra)

    from rerank_plugins.ray.data import rerank_dataset  # noqa: PLC0415

    requests = _batch_rows(read_beir(folder), pairs // BATCH_DOCUMENTS)
    with tempfile.TemporaryDirectory() as work:
        source, output = Path(work) / "in.jsonl", Path(work) / "out"
        source.write_text("".join(json.dumps(row) + "\n" for row in requests), "utf-8")
        ray.init(num_cpus=actors, object_store_memory=200 * 2**20, include_dashboard=False)
        try:
            summary = rerank_dataset(source, output, top_n=10, actors=actors)
            start = time.perf_counter()
            rerank_dataset(source, output, top_n=10, actors=actors)
            resumed_s = time.perf_counter() - start
        finally:
            ray.shutdown()
        difference = _largest_difference(output, requests)
    scored = summary.documents - summary.dead * BATCH_DOCUMENTS
    metrics = {
        "seconds": summary.seconds,
        "pairs_per_s": scored / summary.seconds,
        "rows": summary.rows,
        "ranked": summary.ranked,
        "dead": summary.dead,
        "resumed_s": resumed_s,
        "checked_queries": CHECKED,
        "largest_difference": difference,
    }
    return make_rows("batch", f"{actors} actors", f"{scored:,} pairs", metrics)


def _batch_rows(data: RetrievalSet, queries: int) -> list[dict[str, Any]]:
    rng = random.Random(_SEED)  # noqa: S311  (no secret)
    passages = [" ".join(passage.content.split()[:BATCH_WORDS]) for passage in data.passages]
    texts_of_queries = list(data.queries.values())
    rows: list[dict[str, Any]] = []
    for number in range(queries):
        documents: list[Any] = rng.choices(passages, k=BATCH_DOCUMENTS)
        query = texts_of_queries[number % len(texts_of_queries)]
        rows.append({"query": query, "documents": documents})
        if number % INVALID_EVERY == 0:  # one more row, which must become a dead letter
            rows.append({"query": None, "documents": documents})
    return rows


def _largest_difference(output: Path, rows: list[dict[str, Any]]) -> float:
    """Return the largest difference to the scores of the same lists ranked without Ray."""
    from pyarrow import parquet  # noqa: PLC0415  (an extra)

    table = parquet.read_table(output / "ranked").to_pylist()
    reranker = Reranker()
    largest = 0.0
    for ranked in random.Random(_SEED).sample(table, min(CHECKED, len(table))):  # noqa: S311
        expected = reranker.rank(ranked["query"], rows[ranked["row"]]["documents"])
        scores = {document.index: document.raw_score for document in expected}
        best = sorted(scores.values(), reverse=True)
        for position, document in enumerate(ranked["ranking"]):
            score = document["raw_score"]
            differences = (score - scores[document["index"]], score - best[position])
            largest = max(largest, *map(abs, differences))
    return largest
