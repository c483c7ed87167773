"""Recorded graphs give the scores of the layers; what could go wrong does no harm.

No graph of CUDA is needed for most of it: operators are recorded and done again on the same
memory, and attention reads the bounds as the real kernel does. ``test_cuda_graphs.py`` has the
real ones.
"""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rerank_plugins import Reranker
from rerank_plugins.backends.torch import buckets
from rerank_plugins.backends.torch import inputs as torch_inputs
from rerank_plugins.backends.torch import model as torch_model
from rerank_plugins.backends.torch.bert import Buffers
from rerank_plugins.backends.torch.capture import Compute
from rerank_plugins.backends.torch.model import TorchCrossEncoder
from rerank_plugins.core.protocols import Prepared
from rerank_plugins.core.types import TextPair
from rerank_plugins.errors import ConfigurationError
from tests.graphed import PAIRS, graphs_of, load, scores
from tests.recorded import Recorder, varlen_attention
from tests.tiny_models import TEXTS, save_reranker
from tests.tiny_modular import save_modular


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU do what a CUDA device does."""
    monkeypatch.setattr(torch_inputs, "can_flash", lambda *_: True)
    monkeypatch.setattr(torch_inputs, "_CPU_STEP", 1)
    varlen = ModuleType("torch.nn.attention.varlen")  # old torch has none
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attention, raising=False)
    monkeypatch.setitem(sys.modules, varlen.__name__, varlen)
    monkeypatch.setattr(torch_model, "Capture", Recorder)


def recorder_of(backend: TorchCrossEncoder) -> Recorder:
    recorder = graphs_of(backend)._record
    assert isinstance(recorder, Recorder)
    return recorder


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(
    ("architecture", "labels"),
    [("bert", 1), ("bert", 2), ("electra", 1), ("roberta", 1), ("xlm-roberta", 2)],
)
def test_replayed_scores_are_those_of_the_layers(
    architecture: str, labels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_reranker(architecture, tmp_path, labels=labels)
    recorded, plain = load(folder), load(folder, "none")
    assert not recorded.padded
    recorder = recorder_of(recorded)
    at_load = recorder.recorded
    assert at_load == 1, "the check at load goes through a graph"
    batches = [PAIRS, PAIRS[3:] + PAIRS[:3], PAIRS[::-1], PAIRS[:1], PAIRS[:2], PAIRS[:5]]
    wanted = [scores(plain, batch) for batch in batches]
    for _ in range(3):
        for batch, known in zip(batches, wanted, strict=True):
            np.testing.assert_allclose(scores(recorded, batch), known, rtol=0, atol=1e-5)
    assert at_load < recorder.recorded <= at_load + 4
    assert recorder.replayed > len(batches)
    assert caplog.text == ""


@pytest.mark.usefixtures("on_a_gpu")
def test_a_modular_head_is_recorded_with_its_encoder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_modular("bert", tmp_path)
    recorded, wanted = load(folder), scores(load(folder, "none"), PAIRS)
    for _ in range(3):
        np.testing.assert_allclose(scores(recorded, PAIRS), wanted, rtol=0, atol=1e-5)
    assert recorder_of(recorded).replayed > 2
    assert caplog.text == ""


@pytest.mark.usefixtures("on_a_gpu")
def test_one_graph_serves_other_lengths_of_its_bucket(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    recorded, plain = load(folder), load(folder, "none")
    first, other = (
        [TextPair("rain", "rain " * count) for count in counts]
        for counts in ((1, 2, 3, 4, 5), (5, 1, 1, 3, 5))
    )
    for batch in (first, first):
        scores(recorded, batch)
    recorder = recorder_of(recorded)
    before = recorder.recorded, recorder.replayed
    for batch in (other, first[::-1], other[::-1]):
        np.testing.assert_allclose(scores(recorded, batch), scores(plain, batch), rtol=0, atol=1e-5)
    assert (recorder.recorded, recorder.replayed) == (before[0], before[1] + 3)


@pytest.mark.usefixtures("on_a_gpu")
def test_large_batches_are_computed_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_reranker("bert", tmp_path)
    recorded, plain = load(folder), load(folder, "none")
    monkeypatch.setattr(buckets, "LARGEST", 256)
    batch = PAIRS * 3
    assert sum(one.tokens for one in recorded.prepare(batch, 100)) > 256
    recorder = recorder_of(recorded)
    before = recorder.recorded, recorder.replayed
    for _ in range(3):
        np.testing.assert_allclose(scores(recorded, batch), scores(plain, batch), rtol=0, atol=1e-5)
    assert (recorder.recorded, recorder.replayed) == before


@pytest.mark.usefixtures("on_a_gpu")
def test_the_bucket_that_was_not_used_for_longest_is_forgotten(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    graphs, recorder = graphs_of(backend), recorder_of(backend)
    graphs._known.clear()
    graphs._most = 2
    small, middle, large = ([TextPair(TEXTS[0], TEXTS[5])] * n for n in (1, 4, 12))
    wanted = [scores(backend, batch) for batch in (small, middle)]
    for batch, known in zip((small, middle), wanted, strict=True):
        np.testing.assert_allclose(scores(backend, batch), known, rtol=0, atol=1e-5)
    kept = {bucket: weakref.ref(graph.replay) for bucket, graph in graphs._known.items() if graph}
    assert len(kept) == 2
    scores(backend, small)  # so that the other one is older
    scores(backend, large)
    gc.collect()
    assert [replay() is not None for replay in kept.values()] == [True, False]
    recorded = recorder.recorded
    scores(backend, small)
    assert recorder.recorded == recorded
    # Three sizes in turns find no room: none is recorded over and over.
    for batch in (small, middle, large) * 4:
        scores(backend, batch)
    assert recorder.recorded == recorded
    assert len(graphs._known) == 2


def constant(function: Compute) -> Compute:
    """Record badly: what was computed first is given for ever."""
    first = function().clone()
    return lambda: first


def nothing_left(function: Compute) -> Compute:
    function()
    message = "CUDA out of memory."
    raise torch.OutOfMemoryError(message)


def waits(function: Compute) -> Compute:
    return Recorder()(lambda: function() + function().sum().item())


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (constant, "ArithmeticError: Bucket("),
        (nothing_left, "OutOfMemoryError: CUDA out of memory."),
        (waits, "RuntimeError: _local_scalar_dense waits"),
    ],
)
def test_a_graph_that_cannot_be_had_or_is_wrong_is_given_up_for_the_layers(
    record: Callable[[Compute], Compute],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[Compute] = []

    def counted(function: Compute) -> Compute:
        tried.append(function)
        return record(function)

    monkeypatch.setattr(torch_model, "Capture", lambda _: counted)
    folder = save_reranker("bert", tmp_path)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        backend = load(folder)
        plain = load(folder, "none")
        for batch in (PAIRS, PAIRS[::-1], PAIRS[:3]) * 3:
            np.testing.assert_allclose(
                scores(backend, batch), scores(plain, batch), rtol=0, atol=1e-5
            )
    assert not backend.padded
    assert len(tried) == 1
    assert not any(graphs_of(backend)._known.values())
    assert caplog.text.count("goes on without CUDA graphs") == 1
    assert reason in caplog.text


@pytest.mark.usefixtures("on_a_gpu")
def test_memory_that_runs_out_later_frees_the_graphs_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = load(save_reranker("bert", tmp_path))
    graphs = graphs_of(backend)
    batch = [TextPair(TEXTS[0], TEXTS[5])] * 8
    wanted = scores(backend, batch)
    kept = [weakref.ref(graph.replay) for graph in graphs._known.values() if graph]
    assert kept
    graphs._record = nothing_left
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        for _ in range(3):
            np.testing.assert_allclose(scores(backend, batch), wanted, rtol=0, atol=1e-6)
    gc.collect()
    assert [replay() for replay in kept] == [None] * len(kept)
    assert caplog.text.count("goes on without CUDA graphs") == 1


@pytest.mark.usefixtures("on_a_gpu")
def test_scores_that_are_not_finite_record_nothing(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    recorder = recorder_of(backend)
    batch = [TextPair(TEXTS[0], TEXTS[5])] * 8
    recorded = recorder.recorded
    usual = graphs_of(backend)._forward
    graphs_of(backend)._forward = lambda packed: usual(packed) * torch.inf
    for _ in range(3):
        assert not np.isfinite(scores(backend, batch)).any()
    assert recorder.recorded == recorded
    graphs_of(backend)._forward = usual
    assert np.isfinite(scores(backend, batch)).all()
    assert recorder.recorded == recorded + 1


@pytest.mark.usefixtures("on_a_gpu")
def test_graphs_go_with_the_weights_they_read(tmp_path: Path) -> None:
    """Another data type loads other weights, and a closed model has none."""
    backend = load(save_reranker("bert", tmp_path))
    wanted = scores(backend, PAIRS)
    for end in (backend._load, backend.close):
        old = weakref.ref(graphs_of(backend))
        replays = [weakref.ref(graph.replay) for graph in old()._known.values() if graph]  # type: ignore[union-attr]
        assert replays
        end()
        gc.collect()
        assert old() is None
        assert {replay() for replay in replays} == {None}
        if backend._graphs is not None:
            np.testing.assert_allclose(scores(backend, PAIRS), wanted, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("on_a_gpu")
def test_threads_take_turns_at_the_frames(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    batches: list[list[Prepared]] = [
        backend.prepare([TextPair(text, " ".join(TEXTS[:n]))] * 5) for n, text in enumerate(TEXTS)
    ]
    alone = [backend.run(batch) for batch in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        for _ in range(3):
            for wanted, seen in zip(alone, pool.map(backend.run, batches), strict=True):
                np.testing.assert_allclose(seen, wanted, rtol=0, atol=1e-5)
    assert recorder_of(backend).replayed > len(batches)


@pytest.mark.usefixtures("on_a_gpu")
def test_half_precision_is_recorded_as_well(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    # The same arithmetic: how far it is from float32 depends on the kernels of a CPU.
    wanted = scores(load(folder, "none", dtype="bfloat16"), PAIRS)
    backend = load(folder, dtype="bfloat16")
    before = recorder_of(backend).replayed
    for _ in range(4):
        assert np.abs(scores(backend, PAIRS) - wanted).max() < 0.05 * np.ptp(wanted)
    assert recorder_of(backend).replayed >= before + 2


@pytest.mark.usefixtures("on_a_gpu")
def test_what_a_graph_writes_to_is_lent_to_nobody_else(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    scores(backend, PAIRS)
    assert backend._packed is not None
    layers = backend._packed._layers
    assert layers is not None
    assert layers._buffers._flat == {}
    fresh, like = Buffers(reuse=False), torch.zeros(1)
    first, second = fresh.take("sum", 4, 3, like), fresh.take("sum", 4, 3, like)
    assert first.shape == (4, 3)
    assert first.data_ptr() != second.data_ptr()


def test_a_cpu_is_refused(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    refused = r"optimize is 'graphs', and .* on cpu in float32; CUDA graphs need a CUDA device"
    with pytest.raises(ConfigurationError, match=refused):
        Reranker(folder, device="cpu", dtype="float32", optimize="graphs").warm_up()


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("architecture", ["deberta", "modernbert"])
def test_other_layers_are_refused(architecture: str, tmp_path: Path) -> None:
    folder = save_reranker(architecture, tmp_path)
    with pytest.raises(ConfigurationError, match=r"optimize is 'graphs', and .* recorded as graph"):
        load(folder)


def test_other_backends_are_refused(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    with pytest.raises(ConfigurationError, match=r"'graphs', and .* only torch's can optimize"):
        Reranker(folder, backend="sbert", device="cpu", optimize="graphs").warm_up()
