"""An hour of mixed load with faults, every answer checked: ``python -m benchmarks.soak``.

LangChain's and LlamaIndex's users (event loop and threads), plain rerankers, HTTP clients and a
remote model ask the embedded model in this process and in one of ``rerank-plugins serve``.
Requests are cancelled, time out and have deadlines; the model here fails in 1% of its batches, and
1% of the requests are broken ones to the server. Each answer is compared with the scores that
sentence-transformers gave before. ``python -m benchmarks.tables`` then renews the table in
``docs/reliability.md``.
"""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.environment import environment
from benchmarks.load.callers import SentenceTransformers
from benchmarks.load.work import Work, make_work
from benchmarks.serving.process import ours
from benchmarks.soak.driving import Soak
from benchmarks.soak.faulty import FaultyModel
from benchmarks.soak.watching import judged, rows

RESULTS: Final = Path(__file__).parents[1] / "results" / "soak.json"
_SAMPLE_S: Final = 10.0
_SERVER: Final = ("--dtype", "float32", "--device", "cpu", "--log-level", "warning")


def expected(sentences: int, passages: int) -> dict[Work, list[float]]:
    """Return requests over real text, each query once, with the reference's scores."""
    work = make_work(sentences, 6, "sentence", seed=1) + make_work(passages, 4, "passage", seed=2)
    reference = SentenceTransformers()
    each_once = {one.query: one for one in work}
    return {one: reference.score(one) for one in each_once.values()}


def measure(
    minutes: float, pace: float, *, faults: float = 0.01, seed: int = 0, requests: int = 150
) -> dict[str, Any]:
    """Keep the load up, and return the counts.

    Args:
        minutes: For how long.
        pace: Cores' worth of computing that both processes may do together, on average.
        faults: Share of the batches here that fail, and of the requests that are broken.
        seed: Of everything that is left to chance.
        requests: How many different ones there are at most, a third of them over passages.
    """
    work = expected(requests - requests // 3, requests // 3)
    gc.collect()
    model = FaultyModel(faults, seed)
    with ours(*_SERVER) as server:
        soak = Soak(model, server, work, faults=faults, seed=seed)
        asyncio.run(soak.run(60 * minutes, pace, min(_SAMPLE_S, minutes)))
    found = {
        "minutes": minutes,
        "pace_cores": pace,
        "processor_s": round(soak.processor_s, 1),
        "stopped_s": round(soak.stopped_s, 1),
        "seed": seed,
        "fault_rate": faults,
        "different_requests": len(work),
        **soak.tally.to_dict(),
        "faults": dict(sorted(model.injected.items())),
        "processes": {name: judged(some) for name, some in soak.samples.items()},
        "samples": rows(soak.samples),
    }
    model.close()
    return found


def main(
    *,
    minutes: Annotated[float, typer.Option(help="For how long.")] = 60.0,
    pace: Annotated[float, typer.Option(help="Cores to keep busy, on average.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of what is left to chance.")] = 0,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Run the load and write the figures as JSON."""
    found = {**measure(minutes, pace, seed=seed), "environment": environment()}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found) + "\n", encoding="utf-8")
    shown = {name: value for name, value in found.items() if name != "samples"}
    typer.echo(json.dumps(shown, indent=1))


if __name__ == "__main__":
    typer.run(main)
