"""Random requests, delays, faults and cancellations: every request ends correctly."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from rerank_plugins.errors import (
    EngineOverloadedError,
    InferenceError,
    InvalidScoresError,
    OutOfMemoryError,
)
from rerank_plugins.types import TextPair
from tests.helpers.engines import FaultyCrossEncoder, engine_of, expected, pairs

REQUESTS = 120


def faulty_backend(seed: int) -> FaultyCrossEncoder:
    """Return a backend that runs out of memory and fails at random, with NaN for some queries."""
    rng = random.Random(seed)  # noqa: S311

    def fault(batch: list[TextPair]) -> None:
        if len(batch) > 4 and rng.random() < 0.1:
            message = "no memory for this batch"
            raise OutOfMemoryError(message)
        if any(pair.query.startswith("raises") for pair in batch):
            message = "this query raises"
            raise RuntimeError(message)

    poison = frozenset(f"poison{number}" for number in range(REQUESTS))
    return FaultyCrossEncoder(fault, poison=poison, delay_s=0.001, seed=seed, batch_tokens=200)


@pytest.mark.parametrize("seed", range(6))
def test_every_request_ends_correctly(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    kinds = rng.choices(
        ["good", "poison", "raises", "cancelled", "impatient"], [10, 2, 2, 3, 2], k=REQUESTS
    )
    engine = engine_of(faulty_backend(seed), max_queue_tokens=2_000)

    def request(number: int) -> str:
        kind = kinds[number]
        items = pairs(f"{kind}{number}", random.Random(number).randrange(1, 40))  # noqa: S311
        try:
            if number % 2:
                scores = asyncio.run(ask(kind, items))
            elif kind == "cancelled":
                future = engine.submit(items)
                time.sleep(0.002)
                future.cancel()
                scores = future.result(30).values
            else:
                scores = engine.compute(items, wait=kind != "impatient", timeout=30).values
        except (CancelledError, asyncio.CancelledError):
            return "cancelled"
        except EngineOverloadedError:
            return "overloaded"
        except (InvalidScoresError, InferenceError) as error:
            return "poison" if isinstance(error, InvalidScoresError) else "raises"
        np.testing.assert_allclose(scores, expected(items))
        return "good"

    async def ask(kind: str, items: list[TextPair]) -> np.ndarray:
        waits = kind != "impatient"
        task = asyncio.create_task(engine.acompute(items, wait=waits))
        if kind == "cancelled":
            await asyncio.sleep(0.002)
            task.cancel()
        return (await asyncio.wait_for(task, 30)).values

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(request, range(REQUESTS)))
    for kind, outcome in zip(kinds, outcomes, strict=True):
        allowed = {"cancelled": {"cancelled", "good"}, "impatient": {"good", "overloaded"}}
        assert outcome in allowed.get(kind, {kind})
    stats = engine.stats()
    assert stats.queued_tokens == 0
    engine.close()
