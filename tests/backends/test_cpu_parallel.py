"""Parts of a batch on threads of their own: the same scores, and nobody else's threads."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.torch import cpu_parallel as module
from rerank_plugins.backends.torch.cpu_parallel import CPUThreadPool, lanes_for, thread_limit
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray, TextPair

LIMIT = thread_limit()
can_limit = pytest.mark.skipif(LIMIT is None, reason="this torch has not MKL's own function")


def prepared(lengths: Sequence[int]) -> list[TokenizedItem]:
    return [TokenizedItem(tokens, False, number) for number, tokens in enumerate(lengths)]


def numbers(batch: Sequence[TokenizedItem]) -> FloatArray:
    return np.array([one.payload for one in batch], dtype=np.float32)


@pytest.fixture
def four() -> Iterator[CPUThreadPool]:
    lanes = CPUThreadPool(4, lambda _: None, small=True, name="'four'")
    yield lanes
    lanes.close()


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60))
def test_every_item_keeps_its_place(lengths: list[int]) -> None:
    lanes = CPUThreadPool(4, lambda _: None, small=True, name="'four'")
    seen: list[tuple[int, int]] = []

    def compute(batch: Sequence[TokenizedItem]) -> FloatArray:
        seen.append((len(batch), sum(one.tokens for one in batch)))
        return numbers(batch)

    assert lanes.run(compute, prepared(lengths)).tolist() == list(range(len(lengths)))
    assert sum(count for count, _ in seen) == len(lengths)
    assert len(seen) in (1, 2, 4)
    assert max(tokens for _, tokens in seen) * len(seen) <= 1.15 * sum(lengths)
    lanes.close()


def test_uneven_batches_are_computed_by_fewer(four: CPUThreadPool) -> None:
    def threads(lengths: list[int]) -> int:
        used: set[str] = set()

        def compute(batch: Sequence[TokenizedItem]) -> FloatArray:
            used.add(threading.current_thread().name)
            return numbers(batch)

        four.run(compute, prepared(lengths))
        return len(used)

    assert threads([100] * 8) == 4
    assert threads([100] * 6) == 2
    assert threads([500, 20, 20]) == 1
    assert threads([7]) == 1


@can_limit
def test_threads_of_lanes_alone_use_fewer_cores() -> None:
    assert LIMIT is not None

    def cores() -> list[int]:
        """Return OpenMP's and MKL's numbers of threads of the calling thread."""
        told = torch.__config__.parallel_info()
        patterns = (r"get_num_threads\(\) : (\d+)", r"mkl_get_max_threads\(\) : (\d+)")
        return [int(re.findall(pattern, told)[0]) for pattern in patterns]

    found: list[list[int]] = []

    def compute(batch: Sequence[TokenizedItem]) -> FloatArray:
        torch.ones(300_000).exp_()  # what sets a thread's number at its first use
        found.append(cores())
        return numbers(batch)

    before = cores()
    lanes = CPUThreadPool(4, LIMIT, small=True, name="'four'")
    lanes.run(compute, prepared([10] * 8))
    assert found == [[1, 1]] * 4
    found.clear()
    lanes.run(compute, prepared([10] * 6))
    assert found == [[2, 2]] * 2
    assert cores() == before
    lanes.close()


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), MemoryError()])
def test_an_error_comes_when_all_parts_have_ended(
    four: CPUThreadPool, error: BaseException
) -> None:
    ended = []

    def compute(batch: Sequence[TokenizedItem]) -> FloatArray:
        if batch[0].payload == 0:
            raise error
        time.sleep(0.05)
        ended.append(batch)
        return numbers(batch)

    with pytest.raises(type(error)):
        four.run(compute, prepared([10] * 8))
    assert len(ended) == 3
    assert four.run(numbers, prepared([10] * 8)).tolist() == list(range(8))


def test_threads_end_with_it() -> None:
    for close in (True, False):
        lanes = CPUThreadPool(2, lambda _: None, small=True, name="'two'")
        threads = lanes.threads
        if close:
            lanes.close()
        del lanes
        gc.collect()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def test_many_cores_share_lanes() -> None:
    counts = {}
    for cores in (2, 16, 20, 96):
        lanes = CPUThreadPool(cores, lambda _: None, small=False, name="'many'")
        counts[cores] = (len(lanes.threads), lanes.batch_tokens)
        lanes.close()
    assert counts == {2: (2, 2_048), 16: (16, 16_384), 20: (10, 10_240), 96: (16, 16_384)}


@can_limit
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_those_of_one_thread(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    config = ModelConfig("mini", backend="torch", dtype=dtype, device="cpu")
    laned = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
    monkeypatch.setattr(module, "thread_limit", lambda: None)
    plain = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
    pairs = [TextPair("who wrote it", "a book of Goethe " * (1 + n % 17)) for n in range(50)]
    batch = plain.prepare(pairs)
    assert laned.batch_tokens == 3 * 2_048
    assert plain.batch_tokens == 2_048
    allowed = 2e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(laned.run(batch), plain.run(batch), rtol=0, atol=allowed)
    laned.close()
    plain.close()


def test_one_core_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert lanes_for(torch.nn.Linear(2, 2), "small") is None


AT_EXIT = r"""
import os, threading, time
import numpy as np
from rerank_plugins.backends.torch.cpu_parallel import CPUThreadPool
from rerank_plugins.engine.backend import TokenizedItem

class Buffer:
    def __del__(self):
        time.sleep(0.5)
        os.write(1, b"given back\n")

kept = threading.local()

def compute(batch):
    kept.buffer = Buffer()
    return np.zeros(len(batch), np.float32)

lanes = CPUThreadPool(2, lambda _: None, small=True, name="'two'")
lanes.run(compute, [TokenizedItem(9, False, None)] * 2)
"""


def test_the_interpreter_ends_after_the_lanes() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["given back"] * 2
