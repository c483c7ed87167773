"""Backends that wait or fail on purpose, and engines that use them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.loading import UserBackend
from rerank_plugins.errors import OutOfMemoryError, RerankError
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.types import FloatArray, TextPair


def pairs(query: str, count: int, words: int = 8) -> list[TextPair]:
    """Return distinct pairs of one query."""
    return [TextPair(query, f"{query} {number} " + "word " * words) for number in range(count)]


def engine_of(backend: FakeCrossEncoder, **options: int) -> Engine[TextPair]:
    """Return an engine that keeps its backend alive, as the owner of the backend would."""
    engine: Engine[TextPair] = Engine(UserBackend(backend), **options)
    engine.__dict__["backend_reference"] = backend
    return engine


def check_only_bad_fails(backend: FakeCrossEncoder, error: type[RerankError], match: str) -> None:
    """Check that the request ``bad`` fails with an error and that concurrent requests succeed."""
    with engine_of(backend) as engine:
        check_only_bad_fails_in(engine, error, match)


def check_only_bad_fails_in(engine: Engine[TextPair], error: type[RerankError], match: str) -> None:
    """Do the same with an existing engine."""
    futures = {query: engine.submit(pairs(query, 3)) for query in ("good", "bad", "fine")}
    with pytest.raises(error, match=match):
        futures["bad"].result(10)
    for query in ("good", "fine"):
        np.testing.assert_allclose(futures[query].result(10).values, expected(pairs(query, 3)))
    assert engine.stats().queued_tokens == 0


def expected(items: Sequence[TextPair]) -> FloatArray:
    """Return the scores of a fake, each pair computed alone."""
    fake = FakeCrossEncoder()
    scores = [fake.run([item]) for item in fake.prepare(items)]
    return np.concatenate([np.zeros(0, np.float32), *scores])


class GatedCrossEncoder(FakeCrossEncoder):
    """Fake whose batches wait for an event, so that a test controls which requests are pending.

    Attributes:
        gate: Event that the batches wait for.
        entered: Set when a batch has reached the gate.
    """

    def __init__(self, *, batch_tokens: int = 1_024) -> None:
        super().__init__(batch_tokens=batch_tokens)
        self.gate = threading.Event()
        self.entered = threading.Event()

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        self.entered.set()
        assert self.gate.wait(30)
        return super().run(batch)


class FaultyCrossEncoder(FakeCrossEncoder):
    """Fake that fails for some pairs or at random, and may take time.

    Attributes:
        fault: Called with the pairs of each batch before they are scored; may raise.
        poison: Queries whose scores are NaN.
    """

    def __init__(
        self,
        fault: Callable[[list[TextPair]], None] = lambda _: None,
        *,
        poison: frozenset[str] = frozenset(),
        delay_s: float = 0.0,
        seed: int = 0,
        batch_tokens: int = 1_024,
    ) -> None:
        super().__init__(batch_tokens=batch_tokens)
        self.fault = fault
        self.poison = poison
        self._delay_s = delay_s
        self._random = random.Random(seed)  # noqa: S311

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if self._delay_s:
            time.sleep(self._random.random() * self._delay_s)
        self.fault([item.payload for item in batch])
        scores = super().run(batch)
        for row, item in enumerate(batch):
            if item.payload.query in self.poison:
                scores[row] = np.nan
        return scores


def out_of_memory_beyond(limit: int) -> Callable[[list[TextPair]], None]:
    """Return a fault: batches of more pairs than the limit are out of memory."""

    def fault(batch: list[TextPair]) -> None:
        if len(batch) > limit:
            message = f"{len(batch)} pairs do not fit"
            raise OutOfMemoryError(message)

    return fault


def raise_for(query: str, error: BaseException) -> Callable[[list[TextPair]], None]:
    """Return a fault: batches with a query fail."""

    def fault(batch: list[TextPair]) -> None:
        if any(pair.query == query for pair in batch):
            raise error

    return fault


class PinnedCrossEncoder(FakeCrossEncoder):
    """Fake with a fingerprint, so that its scores may be cached on disk."""

    def __init__(self, fingerprint: str = "0" * 64, *, max_length: int = 512) -> None:
        super().__init__(max_length=max_length)
        self.identity = replace(self.identity, fingerprint=fingerprint)


class PinnedBiEncoder(FakeBiEncoder):
    """Fake bi-encoder with a fingerprint."""

    def __init__(self, dimension: int = 64) -> None:
        super().__init__(dimension)
        self.identity = replace(self.identity, fingerprint="0" * 64)
