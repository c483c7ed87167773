"""The load itself: bursts of mixed requests, no faster than a share of a core."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import httpx

from benchmarks.load.work import Work
from benchmarks.serving.process import Server
from benchmarks.soak.asking import THREADED, Answer, Ask, Asker, local_askers, server_askers
from benchmarks.soak.broken import BROKEN, HANG_UP, hang_up, send_broken
from benchmarks.soak.faulty import FaultyModel
from benchmarks.soak.judging import Tally
from benchmarks.soak.pulse import Pulse
from benchmarks.soak.watching import Sample, sample
from rerank_plugins.errors import RemoteError

BROKEN_REQUEST: Final = "broken request"
OF_NETWORK: Final = (RemoteError, httpx.HTTPError)
LOST_S: Final = 120.0
"""A request without an outcome after so long is lost."""

_MOST_AT_ONCE: Final = 16
_CANCELLED: Final = 0.08
_TIMED: Final = 0.05
_DEADLINES: Final = 0.15
_SOON_S: Final = 0.05
_DEADLINE_MS: Final = (1, 80)


class Soak:
    """A load that runs for a while.

    Attributes:
        tally: What became of the requests.
        samples: What both processes had, over time.
        processor_s: Seconds that both have computed.
        stopped_s: Seconds that this process was stopped for, which count nowhere.
    """

    def __init__(
        self,
        model: FaultyModel,
        server: Server,
        work: Mapping[Work, Sequence[float]],
        *,
        faults: float,
        seed: int,
    ) -> None:
        """Prepare a load.

        Args:
            model: The model in this process.
            server: The server, in its own.
            work: What can be asked, with the score of each document.
            faults: Share of the requests that are broken ones to the server.
            seed: Of everything that is left to chance.
        """
        self.tally = Tally()
        self.samples: dict[str, list[Sample]] = {"client": [], "server": []}
        self.processor_s = self.stopped_s = 0.0
        self._pulse = Pulse()
        self._stopped_before = 0.0
        self._model, self._server = model, server
        self._work, self._all = work, list(work)
        self._faults = faults
        self._random = random.Random(seed)  # noqa: S311

    async def run(self, seconds: float, pace: float, every_s: float) -> None:
        """Keep the load up.

        Args:
            seconds: For how long.
            pace: Cores' worth of computing that both processes may do together, on average.
            every_s: Seconds between samples.
        """
        limits = httpx.Limits(max_connections=_MOST_AT_ONCE)
        async with httpx.AsyncClient(timeout=LOST_S, limits=limits) as http:
            askers = local_askers(self._model) | server_askers(self._server.url, http)
            start, before = self._pulse.running_s, self._computed()
            watching = asyncio.ensure_future(self._watch(start, every_s))
            while (now := self._pulse.running_s - start) < seconds:
                await self._burst(askers, http)
                self.processor_s = self._computed() - before
                ahead = self.processor_s / pace - (self._pulse.running_s - start)
                await asyncio.sleep(min(max(ahead, 0.001), max(seconds - now, 0.001)))
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self._look(self._pulse.running_s - start)
            self.stopped_s = self._pulse.stopped_s
            self._pulse.end()

    async def _burst(self, askers: Mapping[str, Asker], http: httpx.AsyncClient) -> None:
        """Send some requests at once and wait for all of them."""
        works = self._random.sample(self._all, self._random.randint(1, _MOST_AT_ONCE))
        self._model.forget_met()
        self._stopped_before = self._pulse.stopped_s
        # Each query once, so that a fault says whom it met.
        requests = {asyncio.create_task(self._request(askers, http, work)): work for work in works}
        end = self._pulse.running_s + LOST_S
        waiting = set(requests)
        while waiting and self._pulse.running_s < end:
            done, waiting = await asyncio.wait(waiting, timeout=1.0)
            for task in done:
                task.result()
        for task in waiting:
            self.tally.add_problem("any", "lost", f"no outcome for {requests[task].query!r}")
            task.cancel()

    async def _request(
        self, askers: Mapping[str, Asker], http: httpx.AsyncClient, work: Work
    ) -> None:
        broken = self._random.random() < self._faults
        kind = BROKEN_REQUEST if broken else self._random.choice(list(askers))
        late = self._random.random() < _DEADLINES
        ask = Ask(work, self._random.randint(*_DEADLINE_MS) if late else None)
        try:
            if broken:
                await self._break(http, self._random.choice([HANG_UP, *BROKEN]))
                return
            answer = await self._disturbed(kind, askers[kind](ask))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (it is judged)
            if self._pulse.stopped_s > self._stopped_before and isinstance(error, OF_NETWORK):
                self.tally.add(kind, "stopped")  # its time-outs ran out while nothing ran
                return
            self.tally.add_error(kind, error, fault=self._model.has_met(work.query))
        else:
            self.tally.add_answer(kind, ask, answer, self._work[work])

    async def _disturbed(self, kind: str, asking: Coroutine[Any, Any, Answer]) -> Answer:
        """Await an answer, or cancel or time out on the way."""
        chance, soon = self._random.random(), self._random.uniform(0, _SOON_S)
        if kind.endswith(THREADED) or chance >= _CANCELLED + _TIMED:
            return await asking
        if chance < _TIMED:
            return await asyncio.wait_for(asking, soon)
        task = asyncio.create_task(asking)
        await asyncio.sleep(soon)
        task.cancel()
        return await task

    async def _break(self, http: httpx.AsyncClient, name: str) -> None:
        if name == HANG_UP:
            await hang_up(self._server.url)
            self.tally.add(BROKEN_REQUEST, "hung up")
            return
        problem = await send_broken(self._server.url, http, name)
        if problem is None:
            self.tally.add(BROKEN_REQUEST, "refused")
        else:
            self.tally.add_problem(BROKEN_REQUEST, "wrong", problem)

    async def _watch(self, start: float, every_s: float) -> None:
        while True:
            self._look(self._pulse.running_s - start)
            await asyncio.sleep(every_s)

    def _look(self, seconds: float) -> None:
        for name, pid in (("client", os.getpid()), ("server", self._server.pid)):
            self.samples[name].append(sample(pid, seconds))

    def _computed(self) -> float:
        own = os.times()
        return own.user + own.system + self._server.cpu_s
