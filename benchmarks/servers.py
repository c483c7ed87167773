"""Throughput and latency of ``rerank-plugins serve`` beside Infinity's server.

Both serve the weights of ``mini`` to the same clients, in turn: ours, theirs, ours, theirs ... so
that a change of the machine's speed meets both. Ours has the defaults of the command. The
documents come from a BEIR folder; by default the one that ships with the package.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.environment import BUNDLED, environment
from benchmarks.serving.load import Body, Served, bodies, load
from benchmarks.serving.process import Server, hollow, infinity, ours
from benchmarks.timing import ratio

RESULTS: Final = Path(__file__).parent / "results" / "servers.json"
HOST_REQUESTS: Final = 600
PATHS: Final = {"ours": "/v1/rerank", "infinity": "/rerank"}


def measure(
    servers: dict[str, Server], requests: list[Body], *, clients: int, rounds: int
) -> dict[str, Any]:
    """Load both servers in turn, and compare what they did.

    Returns:
        Of each: requests a second (median of the rounds), median and 95th percentile of the
        latencies of all rounds in seconds, and its largest memory. Ratios of throughput are
        medians of the rounds'.
    """
    # Not timed: kernels are compiled, connections accepted, caches of the allocator filled.
    warm = {name: _asked(servers[name], name, requests[:clients], clients) for name in PATHS}
    served: dict[str, list[Served]] = {name: [] for name in PATHS}
    for _ in range(rounds):
        for name, rows in served.items():
            rows.append(_asked(servers[name], name, requests, clients))
    one, other = (np.array(served[name][0].scores) for name in PATHS)
    seconds = {name: [row.seconds for row in rows] for name, rows in served.items()}
    p95 = {name: _percentile(rows, 95) for name, rows in served.items()}
    return {
        "clients": clients,
        "documents": len(requests[0]["documents"]),
        "requests": len(requests),
        "rounds": rounds,
        "seconds": seconds,
        "warm_up_s": {name: row.seconds for name, row in warm.items()},
        "requests_per_s": {name: len(requests) / median(taken) for name, taken in seconds.items()},
        "p50_s": {name: _percentile(rows, 50) for name, rows in served.items()},
        "p95_s": p95,
        "peak_mib": {name: server.peak_mib for name, server in servers.items()},
        "throughput_ratio": ratio(seconds["infinity"], seconds["ours"]),
        "p95_ratio": p95["ours"] / p95["infinity"],
        "largest_difference": float(np.abs(one - other).max()),
    }


def measure_host(server: Server, folder: Path, *, clients: int, documents: int) -> dict[str, float]:
    """Return what our process computes besides the model: seconds of a core.

    Requests with one document and with many have a cost for the request and one for each pair
    in common.

    Args:
        server: One without a model's arithmetic.
        folder: BEIR folder of the documents.
        clients: Connections at once.
        documents: Documents of the larger requests.
    """
    costs = []
    for count in (1, documents):
        asked = bodies(folder, HOST_REQUESTS, count)
        _asked(server, "ours", asked[:clients], clients)
        before = server.cpu_s
        _asked(server, "ours", asked, clients)
        costs.append((server.cpu_s - before) / len(asked))
    pair_s = (costs[1] - costs[0]) / (documents - 1)
    return {"request_s": costs[0] - pair_s, "pair_s": pair_s}


def _asked(server: Server, name: str, requests: list[Body], clients: int) -> Served:
    return asyncio.run(load(server.url + PATHS[name], requests, clients))


def _percentile(rows: list[Served], percent: float) -> float:
    return float(np.percentile(np.concatenate([row.latencies for row in rows]), percent))


def main(
    *,
    data: Annotated[Path, typer.Option(help="BEIR folder of the documents.")] = BUNDLED,
    clients: Annotated[int, typer.Option(help="Connections at once.")] = 32,
    documents: Annotated[int, typer.Option(help="Documents of a request.")] = 20,
    requests: Annotated[int, typer.Option(help="Requests of a round.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds of each server.")] = 2,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Start both servers, measure, and write the figures as JSON."""
    asked = bodies(data, requests, documents)
    with ours() as mine, infinity("--no-model-warmup") as theirs:
        servers = {"ours": mine, "infinity": theirs}
        found = measure(servers, asked, clients=clients, rounds=rounds)
    with hollow() as empty:
        host = measure_host(empty, data, clients=clients, documents=documents)
    results = {"set": data.name, **found, "host": host, "environment": environment()}
    text = json.dumps(results, indent=1) + "\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
