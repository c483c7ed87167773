"""Cost and memory of 10 to 10,000 pairs in one call.

``python -m benchmarks.scaling ../shared/data/nq-gold`` reranks so many passages of a set in BEIR
layout in one call, several times each, in turns. Cost should be linear in tokens, which is a
slope of 1 of the logarithms, and memory should not grow by more than the texts.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
import typer

from benchmarks.environment import ROOT, environment
from rerank_plugins import Reranker
from rerank_plugins.evaluation.datasets import read_beir

RESULTS: Final = ROOT / "benchmarks" / "results" / "scaling.json"
SIZES: Final = (10, 100, 1_000, 10_000)
TURNS: Final = 5
SEED: Final = 17
_MIB: Final = 2**20


def measure(
    texts: Sequence[str], query: str, reranker: Reranker, *, sizes: Sequence[int], turns: int
) -> dict[str, Any]:
    """Measure calls of some sizes, smallest first, in turns.

    Args:
        texts: Where documents are drawn from; they may be drawn again, with a number that
            makes them another text.
        query: The query of every call.
        reranker: What ranks; its model is loaded first.
        sizes: Pairs a call, ascending.
        turns: How often each size is measured; sizes beyond a thousand only once.

    Returns:
        For each size its tokens, seconds, processor seconds and the peak of memory after it;
        and the slopes of the logarithms of both times over that of tokens.
    """
    engine = reranker.warm_up().engine
    calls = {
        size: [f"{texts[at % len(texts)]} {at // len(texts) or ''}" for at in range(size)]
        for size in sizes
    }
    seen: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    tokens: dict[int, int] = {}
    peaks: dict[int, float] = {}
    reranker.rank(query, calls[sizes[0]])
    for turn in range(turns):
        for size, documents in calls.items():
            if turn and size > 1_000:  # noqa: PLR2004  (long enough to be even)
                continue
            before = engine.stats().tokens
            start, processor = perf_counter(), process_time()
            reranker.rank(query, documents)
            seen[size].append((perf_counter() - start, process_time() - processor))
            tokens[size] = engine.stats().tokens - before
            peaks.setdefault(size, peak_mib())
    rows = [
        {
            "pairs": size,
            "tokens": tokens[size],
            "seconds": median(wall for wall, _ in times),
            "processor_seconds": median(used for _, used in times),
            "text_mib": sum(sys.getsizeof(text) for text in calls[size]) / _MIB,
            "peak_mib": peaks[size],
        }
        for size, times in seen.items()
    ]
    return {"sizes": rows, "slope": _slope(rows, "seconds")} | {
        "processor_slope": _slope(rows, "processor_seconds")
    }


def _slope(rows: Sequence[dict[str, Any]], name: str) -> float:
    tokens, seconds = (np.log([row[key] for row in rows]) for key in ("tokens", name))
    return float(np.polyfit(tokens, seconds, 1)[0])


def peak_mib() -> float:
    """Return the most memory that this process has had (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MIB


def main(folder: Path, turns: int = TURNS, dtype: str = "float32") -> None:
    """Measure and write the results."""
    data = read_beir(folder)
    generator = random.Random(SEED)  # noqa: S311  (no secret)
    texts = [passage.content for passage in data.passages]
    generator.shuffle(texts)
    reranker = Reranker(backend="torch", dtype=dtype)  # type: ignore[arg-type]
    query = data.queries[min(data.queries)]
    found = measure(texts, query, reranker, sizes=SIZES, turns=turns)
    result = {"environment": environment(), "set": folder.name, "dtype": dtype, **found}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    typer.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
