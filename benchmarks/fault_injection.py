"""Backends that fail at random, and clients that check every response.

The fault of a call of the backend depends on the seed and the call's number only; the requests in
its batch depend on the timing of the threads.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Any, Final

import numpy as np

from rerank_plugins.engine.backend import CrossEncoderBackend, TokenizedItem
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import RerankError
from rerank_plugins.types import FloatArray, TextPair

LOST_S: Final = 60.0
"""A request without a response after this time is lost."""

_SLOW_S: Final = 0.01
_LOOP_TASKS: Final = 8
_LATEST_DEADLINE_S: Final = 0.1
_LATEST_CANCEL_S: Final = 0.01
_SHARE: Final = 0.2
"""Share of tasks that have a deadline, and of those that are cancelled."""

_TIMED_OUT: Final = (TimeoutError, FutureTimeoutError, asyncio.TimeoutError)  # one since 3.11
_CANCELLED: Final = (CancelledError, asyncio.CancelledError)


def _with_value(scores: FloatArray, value: float) -> FloatArray:
    changed = scores.copy()
    changed[len(changed) // 2] = value
    return changed


def _slow(scores: FloatArray) -> FloatArray:
    time.sleep(_SLOW_S)
    return scores


RAISED: Final[Mapping[str, Callable[[str], BaseException]]] = {
    "an error is raised": OSError,
    "no memory": MemoryError,
    "the thread dies": SystemExit,
}
"""Errors that are raised instead of returned scores."""

CHANGED: Final[Mapping[str, Callable[[FloatArray], Any]]] = {
    "a NaN": lambda scores: _with_value(scores, np.nan),
    "an infinity": lambda scores: _with_value(scores, -np.inf),
    "a score too few": lambda scores: scores[:-1],
    "a score too many": lambda scores: np.append(scores, np.float32(0)),
    "two columns": lambda scores: np.stack([scores, scores], axis=1),
    "no array": lambda _: "scores",
    "a slow batch": _slow,
}
"""Changes to the scores."""

PREPARED: Final = ("texts cannot be read", "an item is not prepared", "an empty item")
"""Faults of tokenization."""

FAULTS: Final = (*RAISED, *CHANGED, *PREPARED)

# The end of a thread fails every waiting request, so it is rare.
_WEIGHTS: Final = {fault: 0.1 if fault == "the thread dies" else 1.0 for fault in FAULTS}


class FaultyBackend:
    """A backend with injected faults.

    Attributes:
        counts: Number of injections of each fault.
        affected: Queries of the calls with a fault.
        rate: Share of calls with a fault; 0 injects none.
    """

    def __init__(
        self,
        inner: CrossEncoderBackend,
        seed: int,
        rate: float,
        faults: Sequence[str] = FAULTS,
    ) -> None:
        """Wrap a backend; closing the wrapper leaves it open."""
        self.identity, self.scale = inner.identity, inner.scale
        self.batch_tokens, self.is_padded = inner.batch_tokens, inner.is_padded
        self.counts: Counter[str] = Counter()
        self.affected: set[str] = set()
        self.rate = rate
        self._inner = inner
        self._seed = seed
        self._faults = faults
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Prepare items, or not all of them."""
        queries = [item.query for item in items]
        fault = self._next("prepare", PREPARED, queries)
        if fault == "texts cannot be read":
            raise ValueError(fault)
        prepared = [
            replace(encoded, payload=(query, encoded))
            for query, encoded in zip(queries, self._inner.prepare(items, max_length), strict=True)
        ]
        if fault == "an item is not prepared":
            return prepared[:-1]
        if fault == "an empty item":
            return [*prepared[:-1], replace(prepared[-1], tokens=0)]
        return prepared

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score a batch, or fail."""
        fault = self._next("run", (*RAISED, *CHANGED), [item.payload[0] for item in batch])
        if fault in RAISED:
            raise RAISED[fault](fault)
        scores = self._inner.run([item.payload[1] for item in batch])
        return CHANGED[fault](scores) if fault in CHANGED else scores

    def close(self) -> None:
        """Leave the wrapped backend open."""

    def _next(self, step: str, faults: Sequence[str], queries: Sequence[str]) -> str:
        """Return the fault of this call of a step; an empty string is no fault."""
        faults = [fault for fault in faults if fault in self._faults]
        with self._lock:
            self._calls[step] += 1
            rng = random.Random(f"{self._seed} {step} {self._calls[step]}")  # noqa: S311
            if not faults or rng.random() >= self.rate:
                return ""
            fault = rng.choices(faults, [_WEIGHTS[name] for name in faults])[0]
            self.counts[fault] += 1
            self.affected.update(queries)
            return fault


class CheckingClients:
    """Sends random sets of pairs with known scores to an engine, and checks the responses.

    Attributes:
        outcomes: Number of requests by outcome: ``right``, ``partly`` (in time for the
            deadline), ``error``, ``cancelled``, and what must not happen: ``wrong``, ``lost`` and
            ``foreign`` (an exception that is not of the package).
        scores_compared: Number of compared scores.
    """

    def __init__(
        self, engine: Engine[TextPair], known: Mapping[TextPair, float], tolerance: float
    ) -> None:
        """Take the known scores.

        Args:
            engine: The engine.
            known: The score of each pair.
            tolerance: Largest accepted difference of a score.
        """
        self.outcomes: Counter[str] = Counter()
        self.scores_compared = 0
        self._engine = engine
        self._known = known
        self._pairs = list(known)
        self._tolerance = tolerance

    def send(self, requests: int, threads: int, seed: int) -> None:
        """Send requests from threads, half of which run event loops."""
        groups = [range(first, requests, threads) for first in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            for outcomes in pool.map(lambda numbers: list(self._thread(numbers, seed)), groups):
                for outcome, compared in outcomes:
                    self.outcomes[outcome] += 1
                    self.scores_compared += compared

    def check(self, items: list[TextPair], computed: RequestOutput) -> tuple[str, int]:
        """Return the outcome of a response, and how many scores were compared."""
        done = computed.done
        wanted = np.array([self._known[pair] for pair in items])[done]
        if len(computed.values) != len(items) or computed.values[done].shape != wanted.shape:
            return "wrong", 0
        if not np.allclose(computed.values[done], wanted, rtol=0, atol=self._tolerance):
            return "wrong", 0
        return ("right" if done.all() else "partly"), len(wanted)

    def _thread(self, numbers: Sequence[int], seed: int) -> Iterator[tuple[str, int]]:
        if numbers and numbers[0] % 2:
            yield from asyncio.run(self._loop(numbers, seed))
            return
        for number in numbers:
            rng = random.Random(f"{seed} {number}")  # noqa: S311
            items = self._choose(rng)
            try:
                yield self.check(items, self._blocking(items, rng))
            except (RerankError, *_CANCELLED, *_TIMED_OUT) as error:
                yield _outcome(error), 0
            except Exception:  # noqa: BLE001  (counted as what must not happen)
                yield "foreign", 0

    def _blocking(self, items: list[TextPair], rng: random.Random) -> RequestOutput:
        kind = rng.choice(("future", "blocking", "deadline", "cancelled"))
        if kind == "blocking":
            return self._engine.compute(items, timeout=LOST_S)
        if kind == "deadline":
            deadline = time.perf_counter() + rng.uniform(0, _LATEST_DEADLINE_S)
            return self._engine.compute(items, timeout=LOST_S, deadline=deadline)
        future = self._engine.submit(items)
        if kind == "cancelled":
            time.sleep(rng.uniform(0, _LATEST_CANCEL_S))
            future.cancel()
        return future.result(LOST_S)

    async def _loop(self, numbers: Sequence[int], seed: int) -> list[tuple[str, int]]:
        limit = asyncio.Semaphore(_LOOP_TASKS)

        async def send(number: int) -> tuple[str, int]:
            async with limit:
                return await self._task(random.Random(f"{seed} {number}"))  # noqa: S311

        return list(await asyncio.gather(*(send(number) for number in numbers)))

    async def _task(self, rng: random.Random) -> tuple[str, int]:
        items = self._choose(rng)
        latest = time.perf_counter() + rng.uniform(0, _LATEST_DEADLINE_S)
        deadline = latest if rng.random() < _SHARE else None
        task = asyncio.ensure_future(self._engine.acompute(items, deadline=deadline))
        if rng.random() < _SHARE:
            await asyncio.sleep(rng.uniform(0, _LATEST_CANCEL_S))
            task.cancel()
        try:
            return self.check(items, await asyncio.wait_for(task, LOST_S))
        except (RerankError, *_CANCELLED, *_TIMED_OUT) as error:
            return _outcome(error), 0
        except Exception:  # noqa: BLE001  (counted as what must not happen)
            return "foreign", 0

    def _choose(self, rng: random.Random) -> list[TextPair]:
        return rng.sample(self._pairs, rng.randint(1, 12))


def _outcome(error: BaseException) -> str:
    if isinstance(error, RerankError):
        return "error"
    return "cancelled" if isinstance(error, _CANCELLED) else "lost"
