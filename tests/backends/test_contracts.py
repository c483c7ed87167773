"""Contract suite of every backend, on tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from rerank_plugins import FlagSpec
from rerank_plugins.backends.bi_encoder import SentenceTransformerBiEncoder
from rerank_plugins.backends.decoder.cross_encoder import DecoderCrossEncoder
from rerank_plugins.backends.flag.bi_encoder import FlagBiEncoder
from rerank_plugins.backends.flag.cross_encoder import FlagCrossEncoder
from rerank_plugins.backends.sentence_transformers import SentenceTransformerCrossEncoder
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import BiEncoderBackend, CrossEncoderBackend
from rerank_plugins.testing import BiEncoderContract, CrossEncoderContract
from tests.helpers.tiny_bi_encoders import save_dense
from tests.helpers.tiny_decoders import save_logit_score
from tests.helpers.tiny_flag import save_layerwise, save_lightweight
from tests.helpers.tiny_models import save_reranker
from tests.helpers.tiny_modular import save_modular

has_flag = pytest.mark.skipif(
    find_spec("FlagEmbedding") is None, reason="the extra flag is not installed"
)


def config(folder: Path, backend: str = "") -> ModelConfig:
    return ModelConfig(str(folder), backend=backend, dtype="float32", max_length=None)


def flag(model: FlagSpec) -> FlagCrossEncoder:
    model_config = ModelConfig(str(model), backend="flag", dtype="float32", spec=model)
    return FlagCrossEncoder(FlagCrossEncoder.resolve(model_config))


class TestDecoder(CrossEncoderContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> CrossEncoderBackend:
        folder = save_logit_score("qwen3", tmp_path)
        return DecoderCrossEncoder(DecoderCrossEncoder.resolve(config(folder)))


class TestModular(CrossEncoderContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[CrossEncoderBackend]:
        folder = save_modular("modernbert", tmp_path)
        backend = TorchCrossEncoder(TorchCrossEncoder.resolve(config(folder)))
        yield backend
        backend.close()


class TestSbertModular(CrossEncoderContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> CrossEncoderBackend:
        cls = SentenceTransformerCrossEncoder
        return cls(cls.resolve(config(save_modular("bert", tmp_path, pooling="mean"))))


class TestSbertDecoder(CrossEncoderContract):
    # For scores up to 3: sentence-transformers passes no positions, so padding on the left shifts
    # them, and rotary angles are rounded to float32.
    tolerance = 3e-5

    @pytest.fixture
    def backend(self, tmp_path: Path) -> CrossEncoderBackend:
        cls = SentenceTransformerCrossEncoder
        return cls(cls.resolve(config(save_logit_score("gemma2", tmp_path))))


class TestLayerwise(CrossEncoderContract):
    tolerance = 5e-5  # for scores up to 10

    @pytest.fixture
    def backend(self, tmp_path: Path) -> CrossEncoderBackend:
        return flag(FlagSpec(str(save_layerwise(tmp_path)), cutoff_layers=3))


class TestLightweight(CrossEncoderContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> CrossEncoderBackend:
        folder = str(save_lightweight(tmp_path))
        return flag(FlagSpec(folder, compress_ratio=4, compress_layers=(1, 2)))


@has_flag
@pytest.mark.filterwarnings("ignore")  # warnings of the imports of FlagEmbedding
class TestFlagReference(CrossEncoderContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> CrossEncoderBackend:
        folder = str(save_reranker("roberta", tmp_path))
        return flag(FlagSpec(folder, variant="encoder-only"))


class TestBiEncoder(BiEncoderContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> BiEncoderBackend:
        cls = SentenceTransformerBiEncoder
        return cls(cls.resolve(config(save_dense("qwen3", tmp_path))))


@has_flag
@pytest.mark.filterwarnings("ignore")
class TestFlagBiEncoder(BiEncoderContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> BiEncoderBackend:
        folder = save_dense("xlm-roberta", tmp_path)
        return FlagBiEncoder(FlagBiEncoder.resolve(config(folder)))
