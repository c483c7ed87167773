"""Several devices behind one queue; CPU replicas stand for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.backends import devices as _devices
from rerank_plugins.backends.replicas import CrossEncoderReplicas
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import CrossEncoderBackend, TokenizedItem
from rerank_plugins.errors import ConfigurationError, InferenceError, ModelLoadError
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers.tiny_models import TEXTS, save_reranker

PAIRS = [(TEXTS[0], " ".join(TEXTS[:n])) for n in range(7)] * 40
BATCH = [TextPair("red apple", "red apple"), TextPair("red apple", "blue sky")]


class Device(FakeCrossEncoder):
    """A device that may be broken, and says which batches it ran."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.name = str(config.device)
        self.ran = 0
        self.closed = False

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if "missing" in self.name:
            message = "device lost"
            raise RuntimeError(message)
        if any(one.tokens > 30 for one in batch):
            message = "bad batch"
            raise RuntimeError(message)
        self.ran += 1
        return super().run(batch)

    def close(self) -> None:
        self.closed = True


def replicas(*devices: str) -> tuple[CrossEncoderReplicas, list[Any]]:
    backend = CrossEncoderReplicas(Device, ModelConfig(device=devices))
    return backend, backend._replicas


def test_scores_are_those_of_one_device(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    one = Reranker(folder, device="cpu", dtype="float32")
    two = Reranker(folder, device=["cpu", "cpu"], dtype="float32")
    np.testing.assert_allclose(two.score(PAIRS), one.score(PAIRS), rtol=0, atol=1e-5)
    assert two.engine is not one.engine
    assert two.engine.identity == one.engine.identity
    assert two.engine is Reranker(folder, device="cpu, cpu", dtype="float32").engine
    assert isinstance(two.engine.backend, CrossEncoderBackend)
    assert two.rank(TEXTS[0], TEXTS).model == one.rank(TEXTS[0], TEXTS).model


def test_every_device_works_and_a_small_request_stays_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker(save_reranker("bert", tmp_path), device=("cpu",) * 3, dtype="float32")
    backends: Any = reranker.engine.backend._replicas  # type: ignore[attr-defined]
    together = threading.Barrier(3, timeout=60)
    calls: list[int] = []
    waiting = True

    def watched(number: int, run: Any) -> Any:
        def call(batch: Sequence[TokenizedItem]) -> FloatArray:
            calls.append(number)
            if waiting:
                together.wait()
            scores: FloatArray = run(batch)
            return scores

        return call

    for number, backend in enumerate(backends):
        monkeypatch.setattr(backend, "run", watched(number, backend.run))
    # Each too long for sharing a batch: the barrier opens only if three run at once.
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(reranker.engine._scheduler._desk._queue, "budget", 1)
        list(pool.map(lambda text: reranker.score([(text, text)]), TEXTS[:3]))
        monkeypatch.undo()
    assert sorted(calls) == [0, 1, 2]
    waiting = False
    for number, backend in enumerate(backends):
        monkeypatch.setattr(backend, "run", watched(number, backend.run))
    calls.clear()
    for _ in range(5):
        reranker.score(PAIRS[:20])
    assert len(calls) == 5


def test_a_device_that_fails_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    backend, devices = replicas("missing:0", "good:0", "good:1")
    with caplog.at_level(logging.ERROR, "rerank_plugins"):
        for _ in range(6):
            assert len(backend.run(backend.prepare(BATCH))) == 2
    assert len(caplog.records) == 1
    assert "missing:0 failed (RuntimeError: device lost)" in caplog.text
    assert "going on with good:0, good:1" in caplog.text
    assert sum(device.ran for device in devices) == 6
    backend.close()
    assert all(device.closed for device in devices)


def test_a_batch_that_fails_everywhere_is_at_fault(caplog: pytest.LogCaptureFixture) -> None:
    backend, _ = replicas("good:0", "good:1")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="bad batch"):
            backend.run(backend.prepare([TextPair("a " * 40, "b " * 40)]))
        assert len(backend.run(backend.prepare(BATCH))) == 2
    assert not caplog.records


def test_when_all_devices_fail_requests_fail_clearly_and_none_hangs() -> None:
    backend, _ = replicas("missing:0", "missing:1")
    reranker = Reranker(backend)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(reranker.score, BATCH) for _ in range(16)]
        for one in asked:
            with pytest.raises(InferenceError, match="device lost"):
                one.result(timeout=60)


def test_a_device_that_cannot_load_releases_the_others() -> None:
    loaded: list[Device] = []

    def make(config: ModelConfig) -> Device:
        if config.device == "small":
            message = "no room"
            raise ModelLoadError(message)
        loaded.append(Device(config))
        return loaded[-1]

    with pytest.raises(ModelLoadError, match="no room"):
        CrossEncoderReplicas(make, ModelConfig(device=["large", "small"]))
    assert [device.closed for device in loaded] == [True]


@pytest.mark.parametrize("device", [[], ["cpu", 3], "cpu,,cpu", 5, [""], [None]])
def test_bad_devices_are_refused(device: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"device is .*give a torch device"):
        ModelConfig(device=device)
    with pytest.raises(ValueError, match="device"):
        CrossEncoderCompressor(device=device).compress_documents([], "a")


def test_a_missing_one_of_several_devices_is_named() -> None:
    with pytest.raises(ConfigurationError, match="device is 'cuda:77'"):
        TorchCrossEncoder.resolve(ModelConfig(device=["cpu", "cuda:77"]))


def test_devices_compute_in_one_data_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "resolve_device", lambda name: name)
    mixed = _devices.resolve_local(ModelConfig(device=["cuda:0", "cpu"]))
    assert (mixed.device, mixed.dtype) == (("cuda:0", "cpu"), "float32")


def test_a_bi_encoder_has_replicas_too() -> None:
    texts = TEXTS * 20
    one, two = (BiEncoder(device=device, dtype="float32") for device in ("cpu", ["cpu", "cpu"]))
    vectors = two.encode_document(texts)
    np.testing.assert_allclose(vectors, one.encode_document(texts), rtol=0, atol=1e-5)
    two.close()


def test_adapters_take_several_devices(tmp_path: Path) -> None:
    folder = str(save_reranker("bert", tmp_path))
    compressor = CrossEncoderCompressor(model=folder, device=["cpu", "cpu"], dtype="float32")
    again = CrossEncoderCompressor(**compressor.model_dump())
    engine = Reranker(folder, device=["cpu", "cpu"], dtype="float32").engine
    assert again.reranker().engine is engine


@pytest.mark.gpu
def test_all_gpus_score_as_one(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    one = Reranker(folder, device="cuda:0").score(PAIRS)
    many = Reranker(folder, device=[*names, *names]).score(PAIRS)
    np.testing.assert_allclose(many, one, rtol=0, atol=0.02 * float(np.ptp(one)))
