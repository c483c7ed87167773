"""Changes of the wall clock while requests wait: no timeout or deadline depends on it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.robustness.faults.scripts import run_script

ROOT: Final = Path(__file__).parents[3]

WALL_CLOCK: Final = {
    "backends/openvino/conversion.py": "ages of files, which have wall clock times",
    "backends/remote/apis.py": "a Retry-After header may contain a date; the wait is bounded",
    "serving/logging.py": "times of log lines",
    "tracing.py": "start times of spans",
}
"""Modules that read the wall clock, and the reasons."""

READS: Final = re.compile(
    r"\btime\.time(_ns)?\(|from time import [^\n]*\btime\b|\bdatetime\.(now|utcnow|today)"
    r"|\bfromtimestamp\(|\blocaltime\(|\bgmtime\("
)

CLOCK: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static volatile long ahead;
void set_ahead(long seconds) { ahead = seconds; }
int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead;
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (!failed) now->tv_sec += ahead;
    return failed;
}
time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}
"""
"""Replacement of the C library's clocks with a wall clock that can be changed."""

SCRIPT: Final = """
import asyncio, ctypes, sys, threading, time
sys.path.insert(0, {root!r})
import numpy as np
from rerank_plugins import Cache, RemoteSpec, Reranker
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.loading import get_loader, register_loader
from tests.helpers.engines import GatedCrossEncoder, PinnedCrossEncoder, engine_of, expected, pairs
from tests.helpers.fake_server import TOKEN, Response, FakeServer

set_ahead = ctypes.CDLL(None).set_ahead

def jump(_=None):
    before, steady = time.time(), time.monotonic()
    set_ahead({ahead})
    assert abs(time.time() - before - {ahead}) < 5, "the clock was not set"
    assert time.monotonic() - steady < 5
    print("jump")

def run_soon(function):
    threading.Timer(0.1, function).start()

def timed(function):
    start = time.monotonic()
    result = function()
    set_ahead(0)
    seconds = time.monotonic() - start
    assert 0.2 < seconds < 10, seconds
    return result

# A timeout, a deadline in a thread, and one in an event loop.
backend = GatedCrossEncoder(batch_tokens=100)
engine = engine_of(backend)
items = pairs("query", 40)

def times_out():
    run_soon(jump)
    try:
        engine.compute(items, timeout=0.3)
    except TimeoutError:
        return
    raise AssertionError

def at_deadline():
    run_soon(jump)
    return engine.compute(items, deadline=time.perf_counter() + 0.3)

async def in_loop():
    run_soon(jump)
    return await engine.acompute(items, deadline=time.perf_counter() + 0.3)

timed(times_out)
assert not timed(at_deadline).done.any()
assert not timed(lambda: asyncio.run(in_loop())).done.any()

# A wait without a timeout continues until its result.
run_soon(jump)
threading.Timer(0.3, backend.gate.set).start()
assert np.allclose(timed(lambda: engine.compute(items)).values, expected(items))
engine.close()

# Entries of the disk cache are found at any time, whenever they were written.
scores = Reranker(PinnedCrossEncoder(), cache=Cache(folder={folder!r}))
first = scores.rank("a b", ["a", "b", "a b"])
scores.close()
jump()
scores = Reranker(PinnedCrossEncoder(), cache=Cache(folder={folder!r}))
assert scores.rank("a b", ["a", "b", "a b"]).stats.disk_hits == 3
scores.rank("a b", ["c", "d"])
scores.close()
set_ahead(0)
scores = Reranker(PinnedCrossEncoder(), cache=Cache(folder={folder!r}))
assert scores.rank("a b", ["a", "b", "a b", "c", "d"]).stats.disk_hits == 5
scores.close()

# An idle model is unloaded in time.
class Loader:
    def resolve(self, config):
        return config
    def load(self, config):
        return PinnedCrossEncoder()

register_loader("cross-encoder", Loader())
idle = Reranker("a model", idle_unload_s=0.3)
idle.rank("a", ["b"])
run_soon(jump)
def unloaded():
    while idle.engine.loaded:
        time.sleep(0.01)
timed(unloaded)
idle.close()

# A server that demands a delay, in seconds or until a date of its own clock.
from rerank_plugins.config import ModelConfig
from rerank_plugins.backends.remote.cross_encoder import RemoteCrossEncoder
from rerank_plugins.errors import BatchError

server = FakeServer("tei")
model = RemoteSpec(server.url, api="tei", token=TOKEN, deadline_s=5)
remote = RemoteCrossEncoder(RemoteCrossEncoder.resolve(ModelConfig(str(model), spec=model)))

def busy(until):
    def respond(*_):
        run_soon(jump)
        return Response(429, "busy", Retry_After=until())
    server.misbehave.append(respond)
    return remote.run(remote.prepare(pairs("query", 3)))

def by_date(seconds):
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds))

assert len(timed(lambda: busy(lambda: "1"))) == 3
assert len(timed(lambda: busy(lambda: by_date(2)))) == 3
set_ahead({ahead})
far = by_date(2)
set_ahead(0)
try:  # a date of a different clock: an immediate error or an immediate response
    start = time.monotonic()
    server.misbehave.append(lambda *_: Response(429, "busy", Retry_After=far))
    remote.run(remote.prepare(pairs("query", 3)))
except BatchError:
    pass
assert time.monotonic() - start < 6
remote.close()
server.stop()
print("done")
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(CLOCK, "utf-8")
    library = folder / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(folder / "clock.c"), "-ldl"]
    subprocess.run(command, check=True, timeout=60)  # noqa: S603  (a compiler)
    return library


@pytest.mark.slow
@pytest.mark.parametrize(
    "ahead",
    [
        pytest.param(400 * 86_400, id="forward"),
        pytest.param(-400 * 86_400, id="back", marks=pytest.mark.slow),
    ],
)
def test_changes_of_the_wall_clock_delay_and_lose_nothing(
    clock: Path, tmp_path: Path, ahead: int
) -> None:
    """The clock changes by 400 days for every library of the process."""
    pytest.importorskip("diskcache")
    script = SCRIPT.format(root=str(ROOT), ahead=ahead, folder=str(tmp_path / "scores"))
    result = run_script(script, LD_PRELOAD=str(clock))
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1:] == ["done"]
    assert result.stdout.count("jump") == 8


def test_a_conversion_that_seems_old_is_returned_but_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose clock is a year ahead removes old files in the middle of a write."""
    model_cache: Any = pytest.importorskip(
        "rerank_plugins.backends.openvino.conversion", exc_type=ImportError
    )
    save, now = model_cache.openvino.save_model, model_cache.time.time

    def save_and_sweep(*values: Any, **named: Any) -> None:
        save(*values, **named)
        with monkeypatch.context() as patch:
            patch.setattr(model_cache.time, "time", lambda: now() + 400 * 86_400)
            model_cache._remove_stale(tmp_path)

    parameter = model_cache.openvino.opset13.parameter([-1], np.float32)
    model = model_cache.openvino.Model([parameter], [parameter])
    with monkeypatch.context() as patch:
        patch.setattr(model_cache.openvino, "save_model", save_and_sweep)
        assert model_cache.load_or_build(tmp_path, "key", lambda: model) is model
    assert "the converted model is not cached" in caplog.text
    model_cache.load_or_build(tmp_path, "key", lambda: model)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_only_listed_modules_read_the_wall_clock() -> None:
    package = ROOT / "rerank_plugins"
    readers = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if READS.search(file.read_text("utf-8"))
    }
    assert readers == WALL_CLOCK.keys()
