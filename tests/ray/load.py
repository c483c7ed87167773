"""Clients that send requests in a loop, without retries, and record the responses."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import httpx

TEXTS = [f"document {number} tells of {word}" for number, word in enumerate("abcdefghijklmnop")]


class Load:
    """Threads that send requests; leaving the context stops them.

    Attributes:
        answers: ``(number, scores by index)`` of every successful call.
        failures: Description of every failed call.
    """

    def __init__(self, url: str, clients: int, texts: Sequence[str] = TEXTS) -> None:
        self.answers: list[tuple[int, dict[int, float]]] = []
        self.failures: list[str] = []
        self._url = url
        self._texts = list(texts)
        self._numbers = itertools.count()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(150)
        assert not any(thread.is_alive() for thread in self._threads)

    @property
    def calls(self) -> int:
        return len(self.answers) + len(self.failures)

    def _run(self) -> None:
        with httpx.Client(timeout=120) as client:
            while not self._end.is_set():
                self._send(client, next(self._numbers))

    def _send(self, client: httpx.Client, number: int) -> None:
        body: dict[str, Any] = {"query": query(number), "documents": self._texts}
        try:
            response = client.post(f"{self._url}/v2/rerank", json=body)
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return
        if response.is_success:
            results = response.json()["results"]
            scores = {result["index"]: result["relevance_score"] for result in results}
            self.answers.append((number, scores))
        else:
            self.failures.append(f"{response.status_code} {response.text}")


def query(number: int) -> str:
    return f"what does {number % 50} tell of?"
