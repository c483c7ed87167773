"""Backends that misbehave on purpose."""

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
    """Return an engine that keeps its backend alive, as the backend's owner would."""
    engine: Engine[TextPair] = Engine(UserBackend(backend), **options)
    engine.__dict__["owned"] = backend
    return engine


def check_only_bad_fails(backend: FakeCrossEncoder, error: type[RerankError], match: str) -> None:
    """Send a request ``bad``, which must fail, among others, which must not notice."""
    with engine_of(backend) as engine:
        check_only_bad_fails_in(engine, error, match)


def check_only_bad_fails_in(engine: Engine[TextPair], error: type[RerankError], match: str) -> None:
    """Do the same with an engine that is there."""
    futures = {query: engine.submit(pairs(query, 3)) for query in ("good", "bad", "fine")}
    with pytest.raises(error, match=match):
        futures["bad"].result(10)
    for query in ("good", "fine"):
        np.testing.assert_allclose(futures[query].result(10).values, expected(pairs(query, 3)))
    assert engine.stats().queued_tokens == 0


def expected(items: Sequence[TextPair]) -> FloatArray:
    """Return the scores a fake gives, computed one by one."""
    fake = FakeCrossEncoder()
    scores = [fake.run([one]) for one in fake.prepare(items)]
    return np.concatenate([np.zeros(0, np.float32), *scores])


class GatedCrossEncoder(FakeCrossEncoder):
    """Computes only while its gate is open, so that a test decides what waits.

    Attributes:
        gate: Set it to let batches pass.
        entered: Set as soon as a batch waits at the gate.
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
    """Fails on some pairs, or at random, or slowly.

    Attributes:
        fault: Called with each batch's pairs before it is scored; may raise.
        poison: Queries whose scores come out as NaN.
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
        self.fault([one.payload for one in batch])
        scores = super().run(batch)
        for row, one in enumerate(batch):
            if one.payload.query in self.poison:
                scores[row] = np.nan
        return scores


def out_of_memory_beyond(limit: int) -> Callable[[list[TextPair]], None]:
    """Return a fault: more than so many pairs do not fit."""

    def fault(batch: list[TextPair]) -> None:
        if len(batch) > limit:
            message = f"{len(batch)} pairs do not fit"
            raise OutOfMemoryError(message)

    return fault


def raise_for(query: str, error: BaseException) -> Callable[[list[TextPair]], None]:
    """Return a fault: a batch with this query fails."""

    def fault(batch: list[TextPair]) -> None:
        if any(pair.query == query for pair in batch):
            raise error

    return fault


class PinnedCrossEncoder(FakeCrossEncoder):
    """A fake that says which weights it has, so that its scores may be kept on disk."""

    def __init__(self, fingerprint: str = "0" * 64, *, max_length: int = 512) -> None:
        super().__init__(max_length=max_length)
        self.identity = replace(self.identity, fingerprint=fingerprint)


class PinnedBiEncoder(FakeBiEncoder):
    """The same for vectors."""

    def __init__(self, dimension: int = 64) -> None:
        super().__init__(dimension)
        self.identity = replace(self.identity, fingerprint="0" * 64)
