"""Replicas on several devices behind one queue, tested with replicas on the CPU."""

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
from rerank_plugins.backends import devices as devices_module
from rerank_plugins.backends.devices import CrossEncoderReplicas
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
    """A backend whose device may fail, and which counts its batches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.name = str(config.device)
        self.ran = 0
        self.closed = False

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if "missing" in self.name:
            message = "device lost"
            raise RuntimeError(message)
        if any(item.tokens > 30 for item in batch):
            message = "bad batch"
            raise RuntimeError(message)
        self.ran += 1
        return super().run(batch)

    def close(self) -> None:
        self.closed = True


def replicas(*devices: str) -> tuple[CrossEncoderReplicas, list[Any]]:
    backend = CrossEncoderReplicas(Device, ModelConfig(device=devices))
    return backend, backend._replicas


def test_scores_equal_those_of_one_device(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    single = Reranker(folder, device="cpu", dtype="float32", activation="none")
    double = Reranker(folder, device=["cpu", "cpu"], dtype="float32", activation="none")
    np.testing.assert_allclose(double.score(PAIRS), single.score(PAIRS), rtol=0, atol=1e-5)
    assert double.engine is not single.engine
    assert double.engine.identity == single.engine.identity
    assert double.engine is Reranker(folder, device="cpu, cpu", dtype="float32").engine
    assert isinstance(double.engine.backend, CrossEncoderBackend)
    assert double.rank(TEXTS[0], TEXTS).model == single.rank(TEXTS[0], TEXTS).model


def test_every_device_works_and_a_small_request_stays_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker(
        save_reranker("bert", tmp_path), device=("cpu",) * 3, dtype="float32", activation="none"
    )
    backends: Any = reranker.engine.backend._replicas  # type: ignore[attr-defined]
    barrier = threading.Barrier(3, timeout=60)
    calls: list[int] = []
    waiting = True

    def recorded(number: int, run: Any) -> Any:
        def call(batch: Sequence[TokenizedItem]) -> FloatArray:
            calls.append(number)
            if waiting:
                barrier.wait()
            scores: FloatArray = run(batch)
            return scores

        return call

    for number, backend in enumerate(backends):
        monkeypatch.setattr(backend, "run", recorded(number, backend.run))
    # No two requests fit into one batch: the barrier opens only if three run at once.
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(reranker.engine._queue._waiting, "budget", 1)
        list(pool.map(lambda text: reranker.score([(text, text)]), TEXTS[:3]))
        monkeypatch.undo()
    assert sorted(calls) == [0, 1, 2]
    waiting = False
    for number, backend in enumerate(backends):
        monkeypatch.setattr(backend, "run", recorded(number, backend.run))
    calls.clear()
    for _ in range(5):
        reranker.score(PAIRS[:20])
    assert len(calls) == 5


def test_a_failing_device_is_no_longer_used(caplog: pytest.LogCaptureFixture) -> None:
    backend, devices = replicas("missing:0", "good:0", "good:1")
    with caplog.at_level(logging.ERROR, "rerank_plugins"):
        for _ in range(6):
            assert len(backend.run(backend.prepare(BATCH))) == 2
    assert len(caplog.records) == 1
    assert "missing:0 failed (RuntimeError: device lost)" in caplog.text
    assert "continuing with good:0, good:1" in caplog.text
    assert sum(device.ran for device in devices) == 6
    backend.close()
    assert all(device.closed for device in devices)


def test_a_batch_that_fails_on_every_device_disables_none(caplog: pytest.LogCaptureFixture) -> None:
    backend, _ = replicas("good:0", "good:1")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="bad batch"):
            backend.run(backend.prepare([TextPair("a " * 40, "b " * 40)]))
        assert len(backend.run(backend.prepare(BATCH))) == 2
    assert not caplog.records


def test_requests_fail_without_hanging_if_all_devices_fail() -> None:
    backend, _ = replicas("missing:0", "missing:1")
    reranker = Reranker(backend)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(reranker.score, BATCH) for _ in range(16)]
        for future in futures:
            with pytest.raises(InferenceError, match="device lost"):
                future.result(timeout=60)


def test_a_device_that_fails_to_load_releases_the_others() -> None:
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
def test_invalid_devices_are_refused(device: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"device is .*give a torch device"):
        ModelConfig(device=device)
    with pytest.raises(ValueError, match="device"):
        CrossEncoderCompressor(device=device).compress_documents([], "a")


def test_a_missing_device_of_several_is_named() -> None:
    with pytest.raises(ConfigurationError, match="device is 'cuda:77'"):
        TorchCrossEncoder.resolve(ModelConfig(device=["cpu", "cuda:77"]))


def test_devices_share_one_data_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "resolve_device", lambda name: name)
    mixed = devices_module.resolve_local(ModelConfig(device=["cuda:0", "cpu"]))
    assert (mixed.device, mixed.dtype) == (("cuda:0", "cpu"), "float32")


def test_bi_encoder_replicas_embed_the_same() -> None:
    texts = TEXTS * 20
    single, double = (
        BiEncoder(device=device, dtype="float32") for device in ("cpu", ["cpu", "cpu"])
    )
    vectors = double.encode_document(texts)
    np.testing.assert_allclose(vectors, single.encode_document(texts), rtol=0, atol=1e-5)
    double.close()


def test_adapters_accept_several_devices(tmp_path: Path) -> None:
    folder = str(save_reranker("bert", tmp_path))
    compressor = CrossEncoderCompressor(model=folder, device=["cpu", "cpu"], dtype="float32")
    again = CrossEncoderCompressor(**compressor.model_dump())
    engine = Reranker(folder, device=["cpu", "cpu"], dtype="float32").engine
    assert again.reranker().engine is engine


@pytest.mark.gpu
def test_all_gpus_score_like_one(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    single = Reranker(folder, device="cuda:0", activation="none").score(PAIRS)
    many = Reranker(folder, device=[*names, *names], activation="none").score(PAIRS)
    np.testing.assert_allclose(many, single, rtol=0, atol=0.02 * float(np.ptp(single)))
