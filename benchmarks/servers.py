"""Server processes on the loopback, and the load of HTTP clients.

Our server and Infinity's serve the weights of ``mini``; ``make peers`` builds Infinity's
environment.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, Final, NamedTuple

import httpx
import numpy as np

import rerank_plugins
from benchmarks.common import ROOT, Row, make_rows, median_ratio, process_status
from rerank_plugins.evaluation import read_beir

MINI: Final = Path(rerank_plugins.__file__).parent / "models" / "mini"
INFINITY: Final = ROOT / ".peers" / "infinity" / "bin" / "infinity_emb"

Body = dict[str, Any]
PATHS: Final = {"rerank-plugins serve": "/v1/rerank", "Infinity": "/rerank"}
_REQUEST_TIMEOUT_S: Final = 300.0
_START_S: Final = 240.0
_END_S: Final = 60.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: Its base address.
        pid: Its process.
    """

    url: str
    pid: int

    @property
    def peak_mib(self) -> float:
        """The largest resident memory so far (Linux)."""
        return process_status(self.pid, "VmHWM") / 1024

    @property
    def cpu_s(self) -> float:
        """The processor seconds so far, on all cores (Linux)."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def ours(*arguments: str) -> Iterator[Server]:
    """Run ``rerank-plugins serve`` with its defaults, except for the embedding model."""
    port = _free_port()
    command = [sys.executable, "-m", "rerank_plugins.cli", "serve", "--embedding-model", "none"]
    with _running([*command, "--port", str(port), *arguments], port, "/ready") as server:
        yield server


@contextmanager
def infinity(*arguments: str) -> Iterator[Server]:
    """Run Infinity's server on the weights of ``mini``.

    Raises:
        FileNotFoundError: If its environment is not built.
    """
    port = _free_port()
    command = [str(INFINITY), "v2", "--model-id", str(MINI), "--engine", "torch"]
    command += ["--device", "cpu", "--no-bettertransformer", "--host", "127.0.0.1"]
    with _running([*command, "--port", str(port), *arguments], port, "/health") as server:
        yield server


@contextmanager
def _running(command: Sequence[str], port: int, ready: str) -> Iterator[Server]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url + ready, log)
            yield Server(url, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    log.seek(0)
    message = f"{process.args!r} did not start: {log.read()[-4_000:].decode(errors='replace')}"
    raise RuntimeError(message)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Load(NamedTuple):
    """The responses of a server under load.

    Attributes:
        seconds: From the first request to the last response.
        latencies: Seconds of each request.
        scores: Scores of each request, by document.
    """

    seconds: float
    latencies: list[float]
    scores: list[list[float]]


def request_bodies(folder: Path, count: int, documents: int, seed: int = 0) -> list[Body]:
    """Return rerank requests of random queries with random passages of a BEIR folder."""
    data = read_beir(folder)
    rng = random.Random(seed)  # noqa: S311
    queries = list(data.queries.values())
    texts = list(dict.fromkeys(passage.content.strip() for passage in data.passages))
    return [
        {"query": rng.choice(queries).strip(), "documents": rng.sample(texts, documents)}
        for _ in range(count)
    ]


async def send_requests(address: str, requests: Sequence[Body], clients: int) -> Load:
    """Send requests over ``clients`` connections, one request at a time each."""
    remaining = iter(enumerate(requests))
    latencies = [0.0] * len(requests)
    scores: list[list[float]] = [[] for _ in requests]
    limits = httpx.Limits(max_connections=1)

    async def client() -> None:
        async with httpx.AsyncClient(timeout=_REQUEST_TIMEOUT_S, limits=limits) as http:
            for number, body in remaining:
                begin = time.perf_counter()
                response = await http.post(address, json=body)
                latencies[number] = time.perf_counter() - begin
                scores[number] = by_document(response.raise_for_status().json()["results"])

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(time.perf_counter() - start, latencies, scores)


def by_document(results: Iterable[dict[str, Any]]) -> list[float]:
    """Return the scores in the order of the documents."""
    ordered = sorted(results, key=lambda result: int(result["index"]))
    return [result["relevance_score"] for result in ordered]


def compare_servers(
    servers: dict[str, Server], requests: list[Body], dataset: str, *, clients: int, rounds: int
) -> list[Row]:
    """Load servers in interleaved rounds; the ratios are those of the first over the second."""
    for name, server in servers.items():  # warm up: kernels, connections, allocators
        _send(server, name, requests[:clients], clients)
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, rounds_of in loads.items():
            rounds_of.append(_send(servers[name], name, requests, clients))
    metrics = {}
    for name, rounds_of in loads.items():
        latencies = np.concatenate([load.latencies for load in rounds_of])
        p50, p95 = np.percentile(latencies, (50, 95))
        metrics[name] = {
            "requests_per_s": len(requests) / median(load.seconds for load in rounds_of),
            "p50_s": float(p50),
            "p95_s": float(p95),
            "peak_mib": servers[name].peak_mib,
        }
    first, second = loads
    seconds = {name: [load.seconds for load in rounds_of] for name, rounds_of in loads.items()}
    differences = np.array(loads[first][0].scores) - np.array(loads[second][0].scores)
    metrics["ratio"] = {
        "requests_per_s": median_ratio(seconds[second], seconds[first]),
        **{
            name: metrics[first][name] / metrics[second][name]
            for name in ("p50_s", "p95_s", "peak_mib")
        },
        "largest_difference": float(np.abs(differences).max()),
    }
    return [
        row
        for name, values in metrics.items()
        for row in make_rows("servers", name, dataset, values)
    ]


def _send(server: Server, name: str, requests: list[Body], clients: int) -> Load:
    return asyncio.run(send_requests(server.url + PATHS[name], requests, clients))


def measure_servers(
    data: Path, *, clients: int = 32, documents: int = 20, requests: int = 64, rounds: int = 5
) -> list[Row]:
    """Compare our server with Infinity's on the passages of a set.

    Raises:
        FileNotFoundError: If Infinity's environment is not built.
    """
    bodies = request_bodies(data, requests, documents)
    with ours() as first, infinity("--no-model-warmup") as second:
        servers = dict(zip(PATHS, (first, second), strict=True))
        return compare_servers(servers, bodies, data.name, clients=clients, rounds=rounds)
