"""Clients that ask all the time, keep what they got, and never ask twice."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import httpx

TEXTS = [f"document {number} tells of {word}" for number, word in enumerate("abcdefghijklmnop")]


class Load:
    """Threads that send requests without a retry; a context manager that ends them.

    Attributes:
        answers: ``(number, scores by index)`` of every call that was answered.
        failures: What every other call got.
    """

    def __init__(self, url: str, clients: int, texts: Sequence[str] = TEXTS) -> None:
        self.answers: list[tuple[int, dict[int, float]]] = []
        self.failures: list[str] = []
        self._url = url
        self._texts = list(texts)
        self._numbers = itertools.count()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(clients)]

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

    def _ask_on(self) -> None:
        with httpx.Client(timeout=120) as client:
            while not self._end.is_set():
                self._ask(client, next(self._numbers))

    def _ask(self, client: httpx.Client, number: int) -> None:
        body: dict[str, Any] = {"query": query(number), "documents": self._texts}
        try:
            answer = client.post(f"{self._url}/v2/rerank", json=body)
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return
        if answer.is_success:
            results = answer.json()["results"]
            scores = {one["index"]: one["relevance_score"] for one in results}
            self.answers.append((number, scores))
        else:
            self.failures.append(f"{answer.status_code} {answer.text}")


def query(number: int) -> str:
    return f"what does {number % 50} tell of?"
