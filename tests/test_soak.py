"""The soak: what it calls wrong is wrong, and a short one runs as the long one does."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from benchmarks.load.work import Work
from benchmarks.soak.__main__ import measure
from benchmarks.soak.asking import Answer, Ask
from benchmarks.soak.broken import BROKEN, hang_up, send_broken
from benchmarks.soak.judging import Tally, problem_of
from benchmarks.soak.pulse import Pulse
from benchmarks.soak.watching import Sample, judged
from rerank_plugins.errors import InferenceError
from rerank_plugins.serving import ServerSettings
from rerank_plugins.testing import FakeCrossEncoder
from tests.serving.live import live

EXPECTED = [0.2, 0.9, 0.5]
ASK = Ask(Work("q", ("a", "b", "c")))


@pytest.mark.parametrize(
    ("answer", "whole", "problem"),
    [
        ([(1, 0.9), (2, 0.5), (0, 0.2)], True, None),
        ([(1, 0.9), (0, None), (2, None)], False, None),
        ([(1, 0.9), (2, 0.5)], True, "documents [1, 2] of 3"),
        ([(1, 0.9), (1, 0.9), (2, 0.5)], True, "documents [1, 1, 2] of 3"),
        ([(1, 0.9), (0, None), (2, None)], True, "1 of 3 are scored"),
        ([(0, None), (1, 0.9), (2, 0.5)], False, "unscored documents before"),
        ([(1, 0.9), (2, None), (0, None)], False, "lost their order"),
        ([(2, 0.5), (1, 0.9), (0, 0.2)], True, "not the best first"),
        ([(1, 0.9), (2, 0.5001), (0, 0.2)], True, "scores {2: 0.5001}"),
        ([(1, float("nan")), (2, 0.5), (0, 0.2)], True, "scores {1: nan}"),
    ],
)
def test_what_is_wrong_with_an_answer(answer: Answer, whole: bool, problem: str | None) -> None:
    said = problem_of(answer, EXPECTED, whole=whole)
    assert (said is None) == (problem is None)
    assert (problem or "") in (said or "")


def test_an_error_needs_a_fault() -> None:
    tally = Tally()
    tally.add_error("one", InferenceError("x"), fault=True)
    tally.add_error("one", asyncio.CancelledError(), fault=False)
    tally.add_error("one", asyncio.TimeoutError(), fault=False)
    assert tally.to_dict()["outcomes"]["wrong"] == 0
    tally.add_error("one", InferenceError("without a reason"), fault=False)
    tally.add_error("one", KeyError("of another kind"), fault=True)
    tally.add_answer("one", ASK, [(0, 0.2)], EXPECTED)
    found = tally.to_dict()
    assert found["outcomes"] == {"lost": 0, "wrong": 3, "failed": 1, "cancelled": 1, "timed out": 1}
    assert len(found["problems"]) == 3


def test_growth_is_seen() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, 360)
    flat = [Sample(10.0 * n, 800 + noise[n], 9, 20) for n in range(360)]
    assert judged(flat)["memory_flat"]
    assert judged(flat)["threads_flat"]
    leak = [one._replace(resident_mib=one.resident_mib + n / 12) for n, one in enumerate(flat)]
    found = judged(leak)  # 30 MiB an hour
    assert not found["memory_flat"]
    assert found["mib_an_hour"]["low"] < 30 < found["mib_an_hour"]["high"]
    handles = [one._replace(open_files=20 + n // 100) for n, one in enumerate(flat)]
    assert not judged(handles)["open_files_flat"]


def test_time_that_a_process_is_stopped_for_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("benchmarks.soak.pulse.time.monotonic", lambda: clock[0])
    pulse = Pulse()
    pulse.end()
    clock[0] += 2  # a slow moment
    assert (pulse.stopped_s, pulse.running_s) == (0, 102)
    clock[0] += 60
    assert (pulse.stopped_s, pulse.running_s) == (60, 102)


async def test_broken_requests_are_refused() -> None:
    settings = ServerSettings(model=FakeCrossEncoder(), embedding_model=None)
    with live(settings) as server:
        async with httpx.AsyncClient() as http:
            for name in BROKEN:
                assert await send_broken(server.url, http, name) is None
        await hang_up(server.url)


@pytest.mark.slow
def test_a_short_soak_loses_nothing_and_makes_nothing_wrong() -> None:
    found = measure(1 / 3, pace=2, faults=0.1, requests=30)
    assert found["problems"] == []
    assert found["outcomes"]["lost"] == found["outcomes"]["wrong"] == 0
    assert len(found["kinds"]) == 8
    for outcome in ("right", "cancelled", "timed out", "partial", "failed", "refused"):
        assert found["outcomes"][outcome] > 0, outcome
    assert sum(found["faults"].values()) > 5
