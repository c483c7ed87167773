"""Clients that ask a server as fast as it answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from rerank_plugins.evaluation.datasets import read_beir

Body = dict[str, Any]

_TIMEOUT_S: Final = 300.0


class Served(NamedTuple):
    """What a server did under load.

    Attributes:
        seconds: From the first request to the last answer.
        latencies: Seconds of each request.
        scores: Of each request, by document.
    """

    seconds: float
    latencies: list[float]
    scores: list[list[float]]


def bodies(folder: Path, count: int, documents: int, seed: int = 0) -> list[Body]:
    """Return rerank requests of random questions with random passages of a BEIR folder."""
    found = read_beir(folder)
    rng = random.Random(seed)  # noqa: S311
    queries = list(found.queries.values())
    texts = list(dict.fromkeys(one.content.strip() for one in found.passages))
    return [
        {"query": rng.choice(queries).strip(), "documents": rng.sample(texts, documents)}
        for _ in range(count)
    ]


async def load(address: str, requests: Sequence[Body], clients: int) -> Served:
    """Send the requests over so many connections, each the next one when it has an answer."""
    waiting = iter(enumerate(requests))
    latencies = [0.0] * len(requests)
    scores: list[list[float]] = [[] for _ in requests]
    limits = httpx.Limits(max_connections=1)

    async def client() -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits) as http:
            for number, body in waiting:
                begin = time.perf_counter()
                answer = await http.post(address, json=body)
                latencies[number] = time.perf_counter() - begin
                scores[number] = by_document(answer.raise_for_status().json()["results"])

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Served(time.perf_counter() - start, latencies, scores)


def by_document(results: Iterable[dict[str, Any]]) -> list[float]:
    """Return the scores in the documents' order."""
    return [one["relevance_score"] for one in sorted(results, key=lambda one: int(one["index"]))]
