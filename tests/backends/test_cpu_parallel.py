"""Data-parallel CPU inference: the same scores, and thread limits of the pool only."""

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
from rerank_plugins.backends.torch.cpu_parallel import (
    CPUThreadPool,
    create_thread_pool,
    thread_limiter,
)
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray, TextPair

LIMIT_THREADS = thread_limiter()
can_limit = pytest.mark.skipif(
    LIMIT_THREADS is None, reason="this torch build has no MKL function to limit threads"
)


def prepared(lengths: Sequence[int]) -> list[TokenizedItem]:
    return [TokenizedItem(tokens, False, number) for number, tokens in enumerate(lengths)]


def numbers(batch: Sequence[TokenizedItem]) -> FloatArray:
    return np.array([item.payload for item in batch], dtype=np.float32)


@pytest.fixture
def four() -> Iterator[CPUThreadPool]:
    pool = CPUThreadPool(4, lambda _: None, small=True, name="'four'")
    yield pool
    pool.close()


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60))
def test_results_keep_the_order_of_the_batch(lengths: list[int]) -> None:
    pool = CPUThreadPool(4, lambda _: None, small=True, name="'four'")
    parts: list[tuple[int, int]] = []

    def compute(batch: Sequence[TokenizedItem]) -> FloatArray:
        parts.append((len(batch), sum(item.tokens for item in batch)))
        return numbers(batch)

    assert pool.run(compute, prepared(lengths)).tolist() == list(range(len(lengths)))
    assert sum(count for count, _ in parts) == len(lengths)
    assert len(parts) in (1, 2, 4)
    assert max(tokens for _, tokens in parts) * len(parts) <= 1.15 * sum(lengths)
    pool.close()


def test_uneven_batches_use_fewer_threads(four: CPUThreadPool) -> None:
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
def test_only_threads_of_the_pool_are_limited() -> None:
    assert LIMIT_THREADS is not None

    def cores() -> list[int]:
        """Return OpenMP's and MKL's numbers of threads for the calling thread."""
        info = torch.__config__.parallel_info()
        patterns = (r"get_num_threads\(\) : (\d+)", r"mkl_get_max_threads\(\) : (\d+)")
        return [int(re.findall(pattern, info)[0]) for pattern in patterns]

    core_counts: list[list[int]] = []

    def compute(batch: Sequence[TokenizedItem]) -> FloatArray:
        torch.ones(300_000).exp_()  # the first use initializes the thread's number
        core_counts.append(cores())
        return numbers(batch)

    before = cores()
    pool = CPUThreadPool(4, LIMIT_THREADS, small=True, name="'four'")
    pool.run(compute, prepared([10] * 8))
    assert core_counts == [[1, 1]] * 4
    core_counts.clear()
    pool.run(compute, prepared([10] * 6))
    assert core_counts == [[2, 2]] * 2
    assert cores() == before
    pool.close()


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), MemoryError()])
def test_an_error_is_raised_after_all_parts_have_ended(
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


def test_threads_end_with_the_pool() -> None:
    for close in (True, False):
        pool = CPUThreadPool(2, lambda _: None, small=True, name="'two'")
        pool.run(numbers, prepared([10] * 2))
        threads = pool.threads
        assert len(threads) == 2
        if close:
            pool.close()
        del pool
        gc.collect()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def test_the_number_of_threads_is_limited() -> None:
    counts = {}
    for cores in (2, 16, 20, 96):
        pool = CPUThreadPool(cores, lambda _: None, small=False, name="'many'")
        counts[cores] = (len(pool._executors), pool.batch_tokens)
        pool.close()
    assert counts == {2: (2, 2_048), 16: (16, 16_384), 20: (10, 10_240), 96: (16, 16_384)}


@can_limit
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_equal_those_of_one_thread(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    config = ModelConfig("mini", backend="torch", dtype=dtype, device="cpu")
    parallel = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
    monkeypatch.setattr(module, "thread_limiter", lambda: None)
    serial = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
    pairs = [TextPair("who wrote it", "a book of Goethe " * (1 + n % 17)) for n in range(50)]
    batch = serial.prepare(pairs)
    assert parallel.batch_tokens == 3 * 2_048
    assert serial.batch_tokens == 2_048
    tolerance = 2e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(parallel.run(batch), serial.run(batch), rtol=0, atol=tolerance)
    parallel.close()
    serial.close()


def test_one_core_needs_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert create_thread_pool(torch.nn.Linear(2, 2), "small") is None


AT_EXIT = r"""
import os, threading, time
import numpy as np
from rerank_plugins.backends.torch.cpu_parallel import CPUThreadPool
from rerank_plugins.engine.backend import TokenizedItem

class Buffer:
    def __del__(self):
        time.sleep(0.5)
        os.write(1, b"released\n")

buffers = threading.local()

def compute(batch):
    buffers.buffer = Buffer()
    return np.zeros(len(batch), np.float32)

pool = CPUThreadPool(2, lambda _: None, small=True, name="'two'")
pool.run(compute, [TokenizedItem(9, False, None)] * 2)
"""


def test_the_interpreter_exits_after_the_threads() -> None:
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["released"] * 2
