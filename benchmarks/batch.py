"""Measures batches: ``python -m benchmarks.batch DATA [MEASURE ...]`` (DATA in BEIR layout).

``real`` ranks a hundred thousand pairs by a pool of Ray actors; ``simulated`` schedules a
million by the cost model, learned here. Writes ``results/batch.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks.batch_simulation import measure_simulated
from benchmarks.environment import environment
from rerank_plugins import Reranker
from rerank_plugins.evaluation.datasets import RetrievalSet, read_beir

RESULTS: Final = Path(__file__).parent / "results" / "batch.json"
DOCUMENTS: Final = 100
WORDS: Final = 24
"""Passages are cut to so many words, about 32 tokens: a sentence."""

BAD_EVERY: Final = 100
CHECKED: Final = 5
TOLERANCE: Final = 1e-5
_SEED: Final = 7


def sentences(data: RetrievalSet) -> list[str]:
    """Return the beginnings of the passages."""
    return [" ".join(passage.content.split()[:WORDS]) for passage in data.passages]


def measure_real(data: RetrievalSet, pairs: int, actors: int) -> dict[str, Any]:
    """Rank pairs, check some against a model in this process, and count what came out."""
    import ray  # noqa: PLC0415  (the other measure needs none)

    from rerank_plugins.ray.data import rerank_dataset  # noqa: PLC0415

    rows = _rows(data, pairs // DOCUMENTS)
    with tempfile.TemporaryDirectory() as name:
        source, output = Path(name) / "in.jsonl", Path(name) / "out"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        ray.init(num_cpus=actors, object_store_memory=200 * 2**20, include_dashboard=False)
        try:
            summary = rerank_dataset(source, output, top_n=10, actors=actors)
            started = perf_counter()
            again = rerank_dataset(source, output, top_n=10, actors=actors)
            resumed_s = perf_counter() - started
        finally:
            ray.shutdown()
        difference = _difference(output, rows)
    scored = summary.documents - summary.dead * DOCUMENTS
    return {
        **asdict(summary),
        "actors": actors,
        "scored_pairs": scored,
        "pairs_per_second": scored / summary.seconds,
        "resumed_units": again.resumed,
        "resumed_s": resumed_s,
        "checked_queries": CHECKED,
        "largest_difference": difference,
        "environment": environment(),
    }


def _rows(data: RetrievalSet, queries: int) -> list[dict[str, Any]]:
    choose = random.Random(_SEED)  # noqa: S311  (no secret)
    texts, asked = sentences(data), list(data.queries.values())
    rows: list[dict[str, Any]] = []
    for number in range(queries):
        documents: list[Any] = choose.choices(texts, k=DOCUMENTS)
        rows.append({"query": asked[number % len(asked)], "documents": documents})
        if number % BAD_EVERY == 0:  # a row more, which must come out as a dead letter
            rows.append({"query": None, "documents": documents})
    return rows


def _difference(output: Path, rows: list[dict[str, Any]]) -> float:
    """Return how far scores are from those of the same lists ranked alone."""
    from pyarrow import parquet  # noqa: PLC0415  (the extra batch)

    table = parquet.read_table(output / "ranked").to_pylist()
    reranker = Reranker()
    worst = 0.0
    for found in random.Random(_SEED).sample(table, min(CHECKED, len(table))):  # noqa: S311
        alone = reranker.rank(found["query"], rows[found["row"]]["documents"])
        scores = {one.index: one.raw_score for one in alone}
        best = sorted(scores.values(), reverse=True)
        for place, one in enumerate(found["ranking"]):
            gaps = (one["raw_score"] - scores[one["index"]], one["raw_score"] - best[place])
            worst = max(worst, *map(abs, gaps))
    return worst


def main(arguments: Sequence[str] | None = None) -> None:
    """Run measures and store their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder in BEIR layout")
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help="real, simulated")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    data = read_beir(chosen.data)
    measures = {
        "real": lambda: measure_real(data, chosen.pairs, chosen.actors),
        "simulated": lambda: measure_simulated(list(data.queries.values()), sentences(data)),
    }
    for name in chosen.measures or measures:
        before = json.loads(chosen.output.read_text("utf-8")) if chosen.output.exists() else {}
        found = {**before, name: measures[name]()}
        chosen.output.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
        sys.stdout.write(f"{name}: {json.dumps(found[name], indent=2)}\n")


if __name__ == "__main__":
    main()
