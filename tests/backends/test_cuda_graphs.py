"""Graphs of CUDA, on a device of compute capability 8.0 or more."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rerank_plugins import Reranker
from rerank_plugins.backends.torch.capture import Capture
from rerank_plugins.backends.torch.model import TorchCrossEncoder
from rerank_plugins.core.config import Dtype
from rerank_plugins.core.types import TextPair
from tests import graphed
from tests.graphed import PAIRS, graphs_of, scores
from tests.tiny_models import TEXTS, save_reranker

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda:0")
load = partial(graphed.load, dtype="float16", device="cuda:0")
BATCHES = [PAIRS[start:] + PAIRS[:start] for start in range(7)] + [PAIRS[:1], PAIRS[:2], PAIRS * 8]


def recorded(backend: TorchCrossEncoder) -> int:
    return sum(graph is not None for graph in graphs_of(backend)._known.values())


def assert_same(seen: Any, wanted: Any) -> None:
    assert np.isfinite(seen).all()
    assert np.abs(seen - wanted).max() < 0.02 * (1 + np.abs(wanted).max())


@pytest.mark.parametrize("architecture", ["bert", "electra", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_replayed_scores_are_those_of_the_layers(
    architecture: str, dtype: Dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_reranker(architecture, tmp_path)
    graphs, plain = load(folder, dtype=dtype), load(folder, "none", dtype=dtype)
    assert not graphs.padded
    assert recorded(graphs) == 1, "the check at load goes through a graph"
    for batch in BATCHES * 3:
        assert_same(scores(graphs, batch), scores(plain, batch))
    assert recorded(graphs) > 2
    assert caplog.text == ""


def test_the_embedded_model_with_texts_of_every_length() -> None:
    plain = Reranker(device="cuda:0", dtype="float16")
    graphs = Reranker(device="cuda:0", dtype="float16", optimize="graphs")
    generator = np.random.default_rng(3)
    for count in [10, 30, 50] * 20:
        pairs = [(TEXTS[0], "rain is water " * generator.integers(0, 60)) for _ in range(count)]
        assert_same(graphs.score(pairs), plain.score(pairs))


def test_a_replay_is_one_launch(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    for _ in range(2):
        scores(backend, PAIRS)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        scores(backend, PAIRS)
    names = [event.name for event in profile.events()]
    assert names.count("cudaGraphLaunch") == 1
    assert names.count("cudaLaunchKernel") < 5


def test_large_batches_in_between_do_not_touch_what_graphs_use(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    wanted = [scores(backend, batch) for batch in BATCHES]
    large = [TextPair(TEXTS[0], " ".join(TEXTS * 9))] * 150
    for _ in range(3):
        for batch, known in zip(BATCHES, wanted, strict=True):
            assert np.isfinite(scores(backend, large)).all()
            torch.cuda.empty_cache()
            torch.full((2**24,), torch.nan, device=CUDA)  # whatever was given back is spoilt
            assert_same(scores(backend, batch), known)


def test_threads_and_models_record_and_replay_at_once(tmp_path: Path) -> None:
    folders = [save_reranker(name, tmp_path / name) for name in ("bert", "xlm-roberta")]
    backends = [load(folder) for folder in folders * 2]
    plain = [load(folder, "none") for folder in folders * 2]
    wanted = [[scores(one, batch) for batch in BATCHES] for one in plain]

    def work(number: int) -> None:
        which = number % len(backends)
        for row in np.random.default_rng(number).permutation(len(BATCHES) * 3) % len(BATCHES):
            assert_same(scores(backends[which], BATCHES[row]), wanted[which][row])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert all(recorded(one) > 1 for one in backends)


def test_graphs_can_be_recorded_after_all_of_them_went(tmp_path: Path) -> None:
    """Their memory pool ends with the last of them."""
    backend = load(save_reranker("bert", tmp_path))
    wanted = [scores(backend, batch) for batch in BATCHES]
    graphs_of(backend)._most = 2
    for _ in range(3):
        graphs_of(backend)._known.clear()
        gc.collect()
        for batch, known in zip(BATCHES, wanted, strict=True):
            for _ in range(3):
                assert_same(scores(backend, batch), known)
        assert recorded(backend) == 2


def test_a_closed_model_gives_its_memory_back(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    load(folder).close()
    gc.collect()
    before = torch.cuda.memory_reserved(CUDA)
    for _ in range(5):
        backend = load(folder)
        for batch in BATCHES * 2:
            scores(backend, batch)
        backend.close()
        del backend
        gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(CUDA) <= before + 2**25


@pytest.mark.parametrize("call", [0, 3], ids=["warming up", "recording"])
def test_memory_that_runs_out_is_survived(
    call: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def greedy() -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.empty(2**50 if calls == call + 1 else 1, device=CUDA)

    check_that_layers_go_on(greedy, "OutOfMemoryError", tmp_path, caplog)


def test_what_cannot_be_recorded_is_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting for the device has it break the capture off."""

    def waits() -> torch.Tensor:
        return torch.zeros(1, device=CUDA) + torch.ones(1, device=CUDA).sum().item()

    check_that_layers_go_on(waits, "Error: ", tmp_path, caplog)


def check_that_layers_go_on(
    bad: Callable[[], torch.Tensor],
    reason: str,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_reranker("bert", folder)
    backend, plain = load(folder), load(folder, "none")
    wanted = [scores(plain, batch) for batch in BATCHES]
    capture = graphs_of(backend)._record
    assert isinstance(capture, Capture)
    graphs_of(backend)._record = lambda _: capture(bad)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        for _ in range(3):
            for batch, known in zip(BATCHES, wanted, strict=True):
                assert_same(scores(backend, batch), known)
    assert caplog.text.count("goes on without CUDA graphs") == 1
    assert reason in caplog.text
    assert torch.cuda.current_stream(CUDA) == torch.cuda.default_stream(CUDA)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    again = load(folder)  # another model records as if nothing had been
    for _ in range(3):
        assert_same(scores(again, PAIRS), scores(plain, PAIRS))
    assert recorded(again) >= 1
    assert caplog.text.count("goes on without CUDA graphs") == 1
