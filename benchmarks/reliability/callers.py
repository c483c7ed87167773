"""Callers that ask an engine in every way, some of whom go away; and what each got."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final

import numpy as np

from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.request import Computed
from rerank_plugins.errors import RerankError
from rerank_plugins.types import TextPair

LOST_S: Final = 60.0
"""A request that has no answer after so long is lost."""

_LOOP_TASKS: Final = 8
"""Requests of one event loop at once."""

_LONGEST_S: Final = 0.1
"""The latest deadline."""

_IMPATIENCE_S: Final = 0.01
"""How long a caller who goes away waits at most."""

_SHARE: Final = 0.2
"""Share of tasks that have a deadline, and of those that are cancelled."""

_LATE: Final = (TimeoutError, FutureTimeout, asyncio.TimeoutError)  # one since Python 3.11
_CANCELLED: Final = (CancelledError, asyncio.CancelledError)

Known = dict[TextPair, float]


class Callers:
    """Asks for random sets of known pairs.

    Attributes:
        outcomes: How many requests ended in which way: ``right``, ``partly`` (in time for their
            deadline), ``error``, ``cancelled``, and what must not be: ``wrong``, ``lost`` and
            ``foreign`` (an exception that is none of the package's).
        pairs: Scores that were compared.
    """

    def __init__(self, engine: Engine[TextPair], known: Known, tolerance: float) -> None:
        """Take the scores that are right.

        Args:
            engine: Whom to ask.
            known: The score of each pair.
            tolerance: How far a score may be from it.
        """
        self.outcomes: Counter[str] = Counter()
        self.pairs = 0
        self._engine = engine
        self._known = known
        self._pairs = list(known)
        self._tolerance = tolerance

    def ask(self, requests: int, threads: int, seed: int) -> None:
        """Send so many requests from so many threads, some of which run event loops."""
        groups = [range(first, requests, threads) for first in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(lambda numbers: list(self._thread(numbers, seed)), groups):
                for outcome, compared in found:
                    self.outcomes[outcome] += 1
                    self.pairs += compared

    def _thread(self, numbers: Sequence[int], seed: int) -> Iterator[tuple[str, int]]:
        if numbers and numbers[0] % 2:
            yield from asyncio.run(self._loop(numbers, seed))
            return
        for number in numbers:
            chance = random.Random(f"{seed} {number}")  # noqa: S311
            items = self._choose(chance)
            try:
                yield self.judge(items, self._blocking(items, chance))
            except (RerankError, *_CANCELLED, *_LATE) as error:
                yield _name(error), 0
            except Exception:  # noqa: BLE001  (counted as what must not be)
                yield "foreign", 0

    def _blocking(self, items: list[TextPair], chance: random.Random) -> Computed:
        way = chance.choice(("future", "blocking", "deadline", "cancelled"))
        if way == "blocking":
            return self._engine.compute(items, timeout=LOST_S)
        if way == "deadline":
            deadline = time.perf_counter() + chance.uniform(0, _LONGEST_S)
            return self._engine.compute(items, timeout=LOST_S, deadline=deadline)
        future = self._engine.submit(items)
        if way == "cancelled":
            time.sleep(chance.uniform(0, _IMPATIENCE_S))
            future.cancel()
        return future.result(LOST_S)

    async def _loop(self, numbers: Sequence[int], seed: int) -> list[tuple[str, int]]:
        room = asyncio.Semaphore(_LOOP_TASKS)

        async def one(number: int) -> tuple[str, int]:
            async with room:
                return await self._task(random.Random(f"{seed} {number}"))  # noqa: S311

        return list(await asyncio.gather(*(one(number) for number in numbers)))

    async def _task(self, chance: random.Random) -> tuple[str, int]:
        items = self._choose(chance)
        late = time.perf_counter() + chance.uniform(0, _LONGEST_S)
        deadline = late if chance.random() < _SHARE else None
        task = asyncio.ensure_future(self._engine.acompute(items, deadline=deadline))
        if chance.random() < _SHARE:
            await asyncio.sleep(chance.uniform(0, _IMPATIENCE_S))
            task.cancel()
        try:
            return self.judge(items, await asyncio.wait_for(task, LOST_S))
        except (RerankError, *_CANCELLED, *_LATE) as error:
            return _name(error), 0
        except Exception:  # noqa: BLE001  (counted as what must not be)
            return "foreign", 0

    def _choose(self, chance: random.Random) -> list[TextPair]:
        return chance.sample(self._pairs, chance.randint(1, 12))

    def judge(self, items: list[TextPair], found: Computed) -> tuple[str, int]:
        """Compare what is done with what is right."""
        done = found.done
        wanted = np.array([self._known[pair] for pair in items])[done]
        if len(found.values) != len(items) or found.values[done].shape != wanted.shape:
            return "wrong", 0
        if not np.allclose(found.values[done], wanted, rtol=0, atol=self._tolerance):
            return "wrong", 0
        return ("right" if done.all() else "partly"), len(wanted)


def _name(error: BaseException) -> str:
    if isinstance(error, RerankError):
        return "error"
    return "cancelled" if isinstance(error, _CANCELLED) else "lost"
