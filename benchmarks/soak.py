"""A long mixed load with faults, in which every response is checked.

LangChain, LlamaIndex and plain rerankers use a model in this process that fails at times; HTTP
clients and a remote model use a process of ``rerank-plugins serve``, which also gets malformed
requests. Requests are cancelled, time out and have deadlines.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
from llama_index.core.schema import QueryBundle
from scipy.stats import theilslopes

from benchmarks.clients import (
    Request,
    SentenceTransformersClient,
    make_requests,
    to_documents,
    to_nodes,
)
from benchmarks.common import Row, make_rows, process_status
from benchmarks.fault_injection import FaultyBackend
from benchmarks.servers import Server, ours
from rerank_plugins import Ranking, RemoteSpec, Reranker
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import CrossEncoderBackend
from rerank_plugins.errors import InferenceError
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from tests.serving.malformed import MALFORMED, hang_up, send_malformed

LOST_S: Final = 120.0
"""A request without a response after this time is lost."""

TOLERANCE: Final = 1e-5
WARM_UP: Final = 1 / 3
"""Share of the time in which allocators, pools and caches fill, which is not judged."""

FAULTS: Final = ("an error is raised", "a NaN", "a score too few")
"""Faults that affect only the requests of one batch."""

_MAX_CONCURRENT: Final = 16
_CANCELLED: Final = 0.08
_TIMED: Final = 0.05
_DEADLINES: Final = 0.15
_SOON_S: Final = 0.05
_DEADLINE_MS: Final = (1, 80)
_SHOWN: Final = 20
_NOTHING_IN_TIME: Final = 504
_MALFORMED: Final = "malformed request"
_THREAD: Final = "in a thread"
_SERVER: Final = ("--dtype", "float32", "--device", "cpu", "--log-level", "warning")

Response = list[tuple[int, float | None]]
"""``(position in the input, relevance score)`` of each document, best first; None is unscored."""

Send = Callable[[Request, float | None], Coroutine[Any, Any, Response]]
"""Sends a request with a deadline in milliseconds."""


def local_clients(backend: CrossEncoderBackend) -> dict[str, Send]:
    """Return the clients of a model in this process; each call creates its own adapter."""

    def compressor(deadline: float | None) -> CrossEncoderCompressor:
        return CrossEncoderCompressor(model=backend, deadline_ms=deadline)

    def postprocessor(deadline: float | None) -> CrossEncoderPostprocessor:
        return CrossEncoderPostprocessor(model=backend, deadline_ms=deadline)

    async def langchain(request: Request, deadline: float | None) -> Response:
        ranked = await compressor(deadline).acompress_documents(
            to_documents(request), request.query
        )
        return [(int(str(doc.id)), doc.metadata["relevance_score"]) for doc in ranked]

    async def langchain_thread(request: Request, deadline: float | None) -> Response:
        documents, call = to_documents(request), compressor(deadline).compress_documents
        ranked = await asyncio.to_thread(call, documents, request.query)
        return [(int(str(doc.id)), doc.metadata["relevance_score"]) for doc in ranked]

    async def llama_index(request: Request, deadline: float | None) -> Response:
        ranked = await postprocessor(deadline).apostprocess_nodes(
            to_nodes(request), QueryBundle(request.query)
        )
        return [(int(node.node.node_id), node.score) for node in ranked]

    async def llama_index_thread(request: Request, deadline: float | None) -> Response:
        nodes, call = to_nodes(request), postprocessor(deadline).postprocess_nodes
        ranked = await asyncio.to_thread(call, nodes, QueryBundle(request.query))
        return [(int(node.node.node_id), node.score) for node in ranked]

    async def plain(request: Request, deadline: float | None) -> Response:
        reranker = Reranker(backend, deadline_ms=deadline)
        return _from_ranking(await reranker.arank(request.query, request.documents))

    return {
        "LangChain": langchain,
        f"LangChain {_THREAD}": langchain_thread,
        "LlamaIndex": llama_index,
        f"LlamaIndex {_THREAD}": llama_index_thread,
        "Reranker": plain,
    }


def server_clients(url: str, http: httpx.AsyncClient) -> dict[str, Send]:
    """Return the clients of a server: HTTP, and a remote model."""
    remote = Reranker(RemoteSpec(url, api="rerank-plugins"))

    async def over_http(request: Request, deadline: float | None) -> Response:
        body = {"query": request.query, "documents": request.documents}
        headers = {} if deadline is None else {"X-Deadline-Ms": str(deadline)}
        response = await http.post(f"{url}/v2/rerank", json=body, headers=headers)
        positions = range(len(request.documents))
        if deadline is not None and response.status_code == _NOTHING_IN_TIME:
            return [(position, None) for position in positions]
        results = response.raise_for_status().json()["results"]
        scored: Response = [(result["index"], result["relevance_score"]) for result in results]
        if response.headers["X-Ranking-Status"] == "partial":  # unscored documents are left out
            returned = {position for position, _ in scored}
            scored += [(position, None) for position in positions if position not in returned]
        return scored

    async def through_remote(request: Request, deadline: float | None) -> Response:
        ranked = remote.arank(request.query, request.documents, deadline_ms=deadline)
        return _from_ranking(await ranked)

    return {"HTTP": over_http, "remote model": through_remote}


def _from_ranking(ranking: Ranking) -> Response:
    return [(doc.index, doc.relevance_score if doc.scored else None) for doc in ranking]


def find_problem(response: Response, expected: Sequence[float], *, whole: bool) -> str | None:
    """Return what is wrong with a response, or None.

    Args:
        response: The ranking.
        expected: The score of each document.
        whole: Whether every document must be scored.
    """
    positions = [position for position, _ in response]
    if sorted(positions) != list(range(len(expected))):
        return f"documents {positions} of {len(expected)}"
    scores = [score for _, score in response]
    known = [score for score in scores if score is not None]
    unscored = positions[len(known) :]
    different = {
        position: score
        for position, score in zip(positions, known, strict=False)
        if not abs(score - expected[position]) <= TOLERANCE  # a NaN is never close
    }
    problems = {
        f"unscored documents before scored ones: {scores}": scores[: len(known)] != known,
        f"{len(known)} of {len(scores)} are scored, without a deadline": whole and bool(unscored),
        f"not the best first: {known}": known != sorted(known, reverse=True),
        f"unscored documents lost their order: {unscored}": unscored != sorted(unscored),
        f"scores {different} of documents that have {list(expected)}": bool(different),
    }
    return next((problem for problem, holds in problems.items() if holds), None)


class Sample(NamedTuple):
    """Resources of a process at a time (Linux)."""

    seconds: float
    resident_mib: float
    threads: int
    open_files: int


def take_sample(pid: int, seconds: float) -> Sample:
    """Read the resources of a process."""
    files = len(os.listdir(f"/proc/{pid}/fd"))
    memory, threads = process_status(pid, "VmRSS") / 1024, process_status(pid, "Threads")
    return Sample(seconds, memory, threads, files)


def summarize(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the growth of memory, threads and files after the warm-up.

    The slope is the Theil-Sen estimator with its 95% interval (Sen, 1968), which is
    robust to single spikes. Threads and files are the means of the first and the second half.
    """
    end = samples[-1].seconds
    settled = [sample for sample in samples if sample.seconds >= WARM_UP * end]
    hours = [sample.seconds / 3600 for sample in settled]
    memory = [sample.resident_mib for sample in settled]
    slope, _, low, high = theilslopes(memory, hours)
    half = len(settled) // 2
    metrics: dict[str, Any] = {"mib_per_hour": (slope, low, high), "resident_mib": memory[-1]}
    for name in ("threads", "open_files"):
        counts = np.array([getattr(sample, name) for sample in settled], dtype=np.float64)
        metrics[f"{name}_first_half"] = float(counts[:half].mean())
        metrics[f"{name}_second_half"] = float(counts[half:].mean())
    return metrics


class Soak:
    """A load that runs for a while.

    Attributes:
        outcomes: Number of requests by outcome: ``right``, ``partial`` (a deadline), ``failed``
            (a fault was injected), ``cancelled``, ``timed out``, ``refused`` (a malformed
            request), ``hung up``, ``lost``, ``wrong``.
        clients: Number of requests by client.
        problems: Descriptions of the first wrong or lost requests.
        scores_compared: Number of compared scores.
        samples: Resources of both processes over time.
    """

    def __init__(
        self,
        backend: FaultyBackend,
        server: Server,
        expected: Mapping[Request, Sequence[float]],
        *,
        malformed: float,
        seed: int,
    ) -> None:
        """Prepare a load.

        Args:
            backend: The model in this process.
            server: The server, in its own process.
            expected: The requests with the score of each document.
            malformed: Share of requests that are malformed and go to the server.
            seed: Seed of all random choices.
        """
        self.outcomes: Counter[str] = Counter(lost=0, wrong=0)
        self.clients: Counter[str] = Counter()
        self.problems: list[str] = []
        self.scores_compared = 0
        self.samples: dict[str, list[Sample]] = {"client process": [], "server process": []}
        self._backend, self._server = backend, server
        self._expected, self._requests = expected, list(expected)
        self._malformed = malformed
        self._random = random.Random(seed)  # noqa: S311

    async def run(self, seconds: float, cores: float, sample_s: float) -> None:
        """Keep the load up.

        Args:
            seconds: Duration.
            cores: Cores that both processes may keep busy on average.
            sample_s: Seconds between samples.
        """
        limits = httpx.Limits(max_connections=_MAX_CONCURRENT)
        async with httpx.AsyncClient(timeout=LOST_S, limits=limits) as http:
            clients = local_clients(self._backend) | server_clients(self._server.url, http)
            start, before = time.monotonic(), self._processor_s()
            monitor = asyncio.ensure_future(self._monitor(start, sample_s))
            while (elapsed := time.monotonic() - start) < seconds:
                await self._burst(clients, http)
                ahead = (self._processor_s() - before) / cores - (time.monotonic() - start)
                await asyncio.sleep(min(max(ahead, 0.001), max(seconds - elapsed, 0.001)))
            monitor.cancel()
            await asyncio.gather(monitor, return_exceptions=True)
            self._sample(time.monotonic() - start)

    async def _burst(self, clients: Mapping[str, Send], http: httpx.AsyncClient) -> None:
        """Send some requests at once and wait for all of them."""
        self._backend.affected.clear()
        count = self._random.randint(1, min(_MAX_CONCURRENT, len(self._requests)))
        tasks = {
            asyncio.ensure_future(self._request(clients, http, request)): request
            for request in self._random.sample(self._requests, count)
        }
        done, pending = await asyncio.wait(tasks, timeout=LOST_S)
        for task in done:
            task.result()
        for task in pending:
            self._add_problem("any", "lost", f"no outcome for {tasks[task].query!r}")
            task.cancel()

    async def _request(
        self, clients: Mapping[str, Send], http: httpx.AsyncClient, request: Request
    ) -> None:
        if self._random.random() < self._malformed:
            await self._send_malformed(http)
            return
        name = self._random.choice(list(clients))
        has_deadline = self._random.random() < _DEADLINES
        deadline = self._random.randint(*_DEADLINE_MS) if has_deadline else None
        try:
            response = await self._disturb(name, clients[name](request, deadline))
        except asyncio.CancelledError:
            self._add(name, "cancelled")
        except asyncio.TimeoutError:
            self._add(name, "timed out")
        except Exception as error:  # noqa: BLE001  (an outcome)
            if isinstance(error, InferenceError) and request.query in self._backend.affected:
                self._add(name, "failed")
            else:
                self._add_problem(name, "wrong", f"raised {error!r} without a fault")
        else:
            self._check(name, response, self._expected[request], whole=deadline is None)

    async def _disturb(self, name: str, sending: Coroutine[Any, Any, Response]) -> Response:
        """Await a response, or cancel or time out before it; threads cannot be cancelled."""
        chance, soon = self._random.random(), self._random.uniform(0, _SOON_S)
        if name.endswith(_THREAD) or chance >= _CANCELLED + _TIMED:
            return await sending
        if chance < _TIMED:
            return await asyncio.wait_for(sending, soon)
        task = asyncio.create_task(sending)
        await asyncio.sleep(soon)
        task.cancel()
        return await task

    async def _send_malformed(self, http: httpx.AsyncClient) -> None:
        name = self._random.choice(["hang up", *MALFORMED])
        if name == "hang up":
            await hang_up(self._server.url)
            self._add(_MALFORMED, "hung up")
            return
        problem = await send_malformed(self._server.url, http, name)
        if problem is None:
            self._add(_MALFORMED, "refused")
        else:
            self._add_problem(_MALFORMED, "wrong", problem)

    def _check(
        self, name: str, response: Response, expected: Sequence[float], *, whole: bool
    ) -> None:
        problem = find_problem(response, expected, whole=whole)
        if problem is not None:
            self._add_problem(name, "wrong", problem)
            return
        scored = sum(score is not None for _, score in response)
        self.scores_compared += scored
        self._add(name, "right" if scored == len(expected) else "partial")

    def _add(self, name: str, outcome: str) -> None:
        self.clients[name] += 1
        self.outcomes[outcome] += 1

    def _add_problem(self, name: str, outcome: str, problem: str) -> None:
        self._add(name, outcome)
        if len(self.problems) < _SHOWN:
            self.problems.append(f"{name}: {problem}")

    async def _monitor(self, start: float, sample_s: float) -> None:
        while True:
            self._sample(time.monotonic() - start)
            await asyncio.sleep(sample_s)

    def _sample(self, seconds: float) -> None:
        pids = (os.getpid(), self._server.pid)
        for samples, pid in zip(self.samples.values(), pids, strict=True):
            samples.append(take_sample(pid, seconds))

    def _processor_s(self) -> float:
        times = os.times()
        return times.user + times.system + self._server.cpu_s


def run_soak(
    minutes: float, *, cores: float = 0.5, rate: float = 0.01, seed: int = 0, requests: int = 150
) -> tuple[Soak, FaultyBackend]:
    """Run a soak, and return it with its backend.

    Args:
        minutes: Duration.
        cores: Cores that both processes may keep busy on average.
        rate: Share of failing batches here, and of malformed requests.
        seed: Seed of all random choices.
        requests: Distinct requests, a third of them over passages.
    """
    passages = requests // 3
    made = make_requests(requests - passages, 6, "sentence", seed=1)
    made += make_requests(passages, 4, "passage", seed=2)
    reference = SentenceTransformersClient()
    # One request per query, since faults are recorded by query.
    expected = {
        request: reference.score(request)
        for request in {request.query: request for request in made}.values()
    }
    config = ModelConfig(device="cpu", dtype="float32")
    inner = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
    backend = FaultyBackend(inner, seed, rate, FAULTS)
    with ours(*_SERVER) as server:
        soak = Soak(backend, server, expected, malformed=rate, seed=seed)
        asyncio.run(soak.run(60 * minutes, cores, min(10.0, minutes)))
    inner.close()
    return soak, backend


def measure_soak(minutes: float, cores: float = 0.5) -> list[Row]:
    """Return the outcomes, the injected faults and the growth of both processes."""
    soak, backend = run_soak(minutes, cores=cores)
    dataset = f"{minutes:g} minutes"
    outcomes = {name.replace(" ", "_"): count for name, count in soak.outcomes.items()}
    metrics = {"requests": soak.outcomes.total(), **outcomes}
    metrics["scores_compared"] = soak.scores_compared
    rows = make_rows("soak", "requests", dataset, metrics)
    rows += make_rows("soak", "injected faults", dataset, backend.counts)
    for name, samples in soak.samples.items():
        rows += make_rows("soak", name, dataset, summarize(samples))
    return rows
