"""The contract suites for every backend and the fakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rerank_plugins.backends.bi_encoder import SentenceTransformerBiEncoder
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.loading import Kind, get_loader
from rerank_plugins.testing import (
    BiEncoderContract,
    CrossEncoderContract,
    FakeBiEncoder,
    FakeCrossEncoder,
)
from tests.backends.test_bi_encoder import save_bi_encoder
from tests.helpers.tiny_models import save_reranker


def load(kind: Kind, **settings: Any) -> Iterator[Any]:
    """Load a backend by its name, as an engine does; skip if its extra is missing."""
    # Not OpenVINO itself: importing it first would start its telemetry.
    pytest.importorskip(f"rerank_plugins.backends.{settings['backend']}", exc_type=ImportError)
    loader = get_loader(kind)
    backend = loader.load(loader.resolve(ModelConfig(**settings)))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_reranker("bert", tmp_path_factory.mktemp("reranker")))


@pytest.fixture(scope="module")
def bi_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_bi_encoder(tmp_path_factory.mktemp("bi"), {}))


class TestFakeCrossEncoder(CrossEncoderContract):
    @pytest.fixture
    def backend(self) -> FakeCrossEncoder:
        return FakeCrossEncoder()


class TestFakeBiEncoder(BiEncoderContract):
    @pytest.fixture
    def backend(self) -> FakeBiEncoder:
        return FakeBiEncoder()


class TestTorch(CrossEncoderContract):
    @pytest.fixture
    def backend(self) -> Iterator[TorchCrossEncoder]:
        backend = TorchCrossEncoder(TorchCrossEncoder.resolve(ModelConfig(dtype="float32")))
        yield backend
        backend.close()


class TestTorchBfloat16(CrossEncoderContract):
    tolerance = 0.1

    @pytest.fixture
    def backend(self) -> Iterator[TorchCrossEncoder]:
        backend = TorchCrossEncoder(TorchCrossEncoder.resolve(ModelConfig(dtype="bfloat16")))
        yield backend
        backend.close()


class TestOpenVINO(CrossEncoderContract):
    tolerance = 1e-4

    @pytest.fixture
    def backend(self, reranker: str) -> Iterator[Any]:
        yield from load("cross-encoder", model=reranker, backend="openvino", dtype="float32")


class TestOpenVINOInt8(CrossEncoderContract):
    """Ranges are fixed and rows separate, so scores do not depend on the batch in int8 either."""

    tolerance = 1e-4

    @pytest.fixture
    def backend(self, reranker: str) -> Iterator[Any]:
        yield from load("cross-encoder", model=reranker, backend="openvino", dtype="int8")


class TestOpenVINOBiEncoder(BiEncoderContract):
    @pytest.fixture
    def backend(self, bi_encoder: str) -> Iterator[Any]:
        yield from load("bi-encoder", model=bi_encoder, backend="openvino", dtype="float32")


class TestSentenceTransformer(BiEncoderContract):
    @pytest.fixture
    def backend(self) -> Iterator[SentenceTransformerBiEncoder]:
        config = ModelConfig(dtype="float32", max_length=None)
        backend = SentenceTransformerBiEncoder(SentenceTransformerBiEncoder.resolve(config))
        yield backend
        backend.close()
