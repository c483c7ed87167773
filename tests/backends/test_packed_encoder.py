"""Padding-free bi-encoders: supported modules, the check at load, and batch invariance.

Parity with sentence-transformers is tested in ``test_bi_encoder.py``, whose models are packed as
well.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from rerank_plugins import BiEncoder
from rerank_plugins.backends.bi_encoder import SentenceTransformerBiEncoder
from rerank_plugins.backends.torch import packing
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import RoleText
from rerank_plugins.errors import EngineClosedError
from rerank_plugins.types import FloatArray
from tests.helpers.tiny_bi_encoders import save_dense
from tests.helpers.tiny_models import TEXTS, WIDTHS

LENGTHS = [*TEXTS, "", "rain " * 70, "who wrote faust " * 30, "a"] * 8


def load(folder: Path, dtype: Any = "float32", device: str = "cpu") -> SentenceTransformerBiEncoder:
    config = SentenceTransformerBiEncoder.resolve(
        ModelConfig(str(folder), device=device, dtype=dtype)
    )
    return SentenceTransformerBiEncoder(config)


def embed(backend: SentenceTransformerBiEncoder, texts: list[str]) -> FloatArray:
    return backend.run(backend.prepare([RoleText(text, "document") for text in texts]))


def reference(folder: Path, texts: list[str]) -> FloatArray:
    peer = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    return np.asarray(peer.encode(texts, normalize_embeddings=True), dtype=np.float32)


@pytest.mark.parametrize(
    ("architecture", "pooling", "packed"),
    [
        ("bert", "mean", True),
        ("bert", "cls", True),
        ("bert", "max", False),
        ("xlm-roberta", "mean", True),
        ("modernbert", "cls", False),
    ],
)
def test_supported_modules_are_packed(
    architecture: str,
    pooling: str,
    *,
    packed: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = save_dense(architecture, tmp_path, pooling=pooling)
    backend = load(folder)
    assert backend.is_padded is not packed
    np.testing.assert_allclose(embed(backend, LENGTHS), reference(folder, LENGTHS), atol=1e-5)
    assert "packed embeddings" not in caplog.text
    backend.close()


def test_another_module_after_the_pooling_is_computed_by_sentence_transformers(
    tmp_path: Path,
) -> None:
    plain = SentenceTransformer(str(save_dense("bert", tmp_path)), device="cpu")
    width = WIDTHS["hidden_size"]
    torch.manual_seed(3)
    folder = tmp_path / "longer"
    SentenceTransformer(modules=[plain[0], plain[1], Dense(width, 2 * width)]).save(str(folder))
    backend = load(folder)
    assert (backend.is_padded, backend.dimension) == (True, 2 * width)
    np.testing.assert_allclose(embed(backend, LENGTHS), reference(folder, LENGTHS), atol=1e-5)


def test_a_wrong_packed_encoder_is_detected_at_load_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_dense("bert", tmp_path)
    monkeypatch.setattr(packing, "first_position", lambda _: 1)
    with caplog.at_level(logging.WARNING):
        backend = load(folder)
    assert backend.is_padded
    assert "packed results differ from padded ones" in caplog.text
    np.testing.assert_allclose(embed(backend, LENGTHS), reference(folder, LENGTHS), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_a_vector_does_not_depend_on_its_batch(
    tmp_path: Path, dtype: str, tolerance: float
) -> None:
    backend = load(save_dense("bert", tmp_path), dtype)
    together = embed(backend, LENGTHS)
    single = np.concatenate([embed(backend, [text]) for text in LENGTHS])
    np.testing.assert_allclose(together, single, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        embed(backend, LENGTHS[::-1]), together[::-1], rtol=0, atol=tolerance
    )
    backend.close()


def test_a_closed_model_has_no_threads_and_raises(tmp_path: Path) -> None:
    backend = load(save_dense("bert", tmp_path))
    embed(backend, LENGTHS)
    pool = backend._packed.thread_pool if backend._packed else None
    threads = pool.threads if pool else ()
    assert all(thread.is_alive() for thread in threads)
    backend.close()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(EngineClosedError, match="was closed"):
        backend.run(backend.prepare([RoleText("rain", "query")]))


@pytest.mark.gpu
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_gpu_embeddings_equal_cpu_embeddings(tmp_path: Path, pooling: str) -> None:
    folder = save_dense("bert", tmp_path, pooling=pooling)
    backend = load(folder, "float16", "cuda:0")
    assert not backend.is_padded
    np.testing.assert_allclose(embed(backend, LENGTHS), reference(folder, LENGTHS), atol=5e-3)


def test_the_engine_plans_without_padding() -> None:
    with BiEncoder() as encoder:
        encoder.encode_document(["rain", "rain " * 200] * 4)
        stats = encoder.engine.stats()
    assert stats.padding_share == 0
