"""What one process answers, and how long that takes as more is asked of it.

Questions arrive at random (a Poisson process) at shares of the rate that the process can just
keep up, each with its passages from a BEIR folder; nobody waits for an earlier answer before the
next one is asked, as with users of their own.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.environment import BUNDLED, environment
from benchmarks.serving.load import Body, bodies
from rerank_plugins import Reranker

RESULTS: Final = Path(__file__).parent / "results" / "one_process.json"
SHARES: Final = (0.2, 0.4, 0.6, 0.8, 0.95)
SEED: Final = 7
_CALLERS: Final = 8


async def capacity(reranker: Reranker, requests: list[Body]) -> float:
    """Return requests a second when there are always some that wait."""
    left = iter(requests)

    async def caller() -> None:
        for one in left:
            await reranker.arank(one["query"], one["documents"])

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return len(requests) / (time.perf_counter() - start)


async def arriving(reranker: Reranker, requests: list[Body], rate: float) -> dict[str, float]:
    """Ask at random times, so many a second on average.

    Returns:
        Requests a second that arrived, and percentiles of the seconds from the time at which a
        request was due until its answer.
    """
    gaps = np.random.default_rng(SEED).exponential(1 / rate, len(requests))
    due = time.perf_counter() + np.cumsum(gaps)

    async def ask(one: Body, at: float) -> float:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        await reranker.arank(one["query"], one["documents"])
        return time.perf_counter() - at

    waits = await asyncio.gather(*map(ask, requests, due))
    p50, p95 = np.percentile(waits, (50, 95))
    return {"rate": len(requests) / float(gaps.sum()), "p50_s": float(p50), "p95_s": float(p95)}


async def measure(reranker: Reranker, asked: list[Body]) -> dict[str, Any]:
    """Measure the most that is answered, then the latencies at shares of it."""
    await capacity(reranker, asked[:_CALLERS])  # not timed: kernels are compiled
    most = await capacity(reranker, asked)
    levels = [{"share": share, **await arriving(reranker, asked, share * most)} for share in SHARES]
    return {"requests_per_s": most, "after": await capacity(reranker, asked), "levels": levels}


def main(
    *,
    data: Annotated[Path, typer.Option(help="BEIR folder of the passages.")] = BUNDLED,
    documents: Annotated[int, typer.Option(help="Passages of a question.")] = 20,
    requests: Annotated[int, typer.Option(help="Questions of a level.")] = 100,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure, and write the figures as JSON."""
    asked = bodies(data, requests, documents)
    with Reranker(dtype="float32", device="cpu") as reranker:
        found = asyncio.run(measure(reranker, asked))
    about = {"set": data.name, "documents": documents, "requests": requests, "seed": SEED}
    text = json.dumps({**about, **found, "environment": environment()}, indent=1) + "\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
