"""Every backend, the fakes included, keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rerank_plugins.backends.bi_encoder import SentenceTransformerBiEncoder
from rerank_plugins.backends.torch.model import TorchCrossEncoder
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.testing import (
    BiEncoderContract,
    CrossEncoderContract,
    FakeBiEncoder,
    FakeCrossEncoder,
)


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


class TestSentenceTransformer(BiEncoderContract):
    @pytest.fixture
    def backend(self) -> Iterator[SentenceTransformerBiEncoder]:
        config = ModelConfig(dtype="float32", max_length=None)
        backend = SentenceTransformerBiEncoder(SentenceTransformerBiEncoder.resolve(config))
        yield backend
        backend.close()
