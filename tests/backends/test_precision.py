"""Fallback from float16 to bfloat16, tested in float16 on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rerank_plugins import Cache, Reranker
from rerank_plugins.backends import devices as devices_module
from rerank_plugins.backends.devices import resolve_device
from rerank_plugins.backends.torch import loading as precision
from rerank_plugins.config import Dtype
from rerank_plugins.errors import ModelLoadError
from tests.helpers.tiny_models import TEXTS, save_reranker


@pytest.fixture(autouse=True)
def half_by_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make "auto" float16, as it is on a GPU, and clear the record of overflows."""

    def resolve_like_a_gpu(dtype: Dtype, device: str) -> Dtype:
        return "float16" if dtype == "auto" else dtype

    monkeypatch.setattr(devices_module, "resolve_dtype", resolve_like_a_gpu)
    precision._overflowed.clear()
    yield
    precision._overflowed.clear()


def save_large(folder: Path, word: str | None = None) -> Path:
    """Save a model whose feed-forward layer overflows in float16: for one word, or for all."""
    save_reranker("bert", folder)
    model: Any = transformers.BertForSequenceClassification.from_pretrained(folder)
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        if word is None:
            layer.intermediate.dense.weight.mul_(3e4)
            layer.output.dense.weight.mul_(1e-4)
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            (number,) = tokenizer(word, add_special_tokens=False)["input_ids"]
            # A dimension that is 0 for all other words, and a hidden unit that reads it.
            embeddings = model.bert.embeddings
            for table in ("word", "position", "token_type"):
                getattr(embeddings, f"{table}_embeddings").weight[:, 0] = 0
            embeddings.word_embeddings.weight[number] = 0
            embeddings.word_embeddings.weight[number, 0] = 50
            layer.attention.output.dense.weight.zero_()
            layer.intermediate.dense.weight[0] = 0
            layer.intermediate.dense.weight[0, 0] = 65_504 / 4
            layer.output.dense.weight[:, 0] = 1e-5
    model.save_pretrained(folder)
    return folder


def test_a_model_that_overflows_at_load_is_computed_in_bfloat16(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_large(tmp_path)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        reranker = Reranker(folder, device="cpu", activation="none").warm_up()
    assert reranker.engine.identity.dtype == "bfloat16"
    assert caplog.text.count("overflows in float16") == 1
    backend = reranker.engine.backend
    assert not backend.is_padded
    exact = Reranker(folder, device="cpu", dtype="float32", activation="none").score(
        [(TEXTS[0], text) for text in TEXTS]
    )
    scores = reranker.score([(TEXTS[0], text) for text in TEXTS])
    np.testing.assert_allclose(scores, exact, rtol=0, atol=0.05 * float(np.ptp(exact)) + 0.05)


def test_a_text_that_overflows_later_switches_the_model_to_bfloat16(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_large(tmp_path, word="faust")
    reranker = Reranker(folder, device="cpu", cache=Cache(memory_mb=1), activation="none")
    reranker.rank("rain", [TEXTS[2]])
    assert reranker.engine.identity.dtype == "float16"
    assert reranker.rank("rain", [TEXTS[2]]).stats.cache_hits == 1
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        ranking = reranker.rank("rain", ["faust"])
    assert ranking.model == reranker.engine.identity
    assert reranker.engine.identity.dtype == "bfloat16"
    assert np.isfinite(ranking[0].raw_score)
    assert caplog.text.count("overflows in float16") == 1
    # Scores cached in float16 belong to another identity.
    assert reranker.rank("rain", [TEXTS[2]]).stats.cache_hits == 0
    reranker.close()
    again = Reranker(folder, device="cpu", activation="none").warm_up()
    assert again.engine.identity.dtype == "bfloat16"


def test_replicas_switch_together(tmp_path: Path) -> None:
    folder = save_large(tmp_path, word="faust")
    reranker = Reranker(folder, device=["cpu", "cpu"], activation="none").warm_up()
    reranker.score([("rain", "faust")])
    for _ in range(4):
        reranker.score([("rain", TEXTS[2])])
    assert reranker.engine.identity.dtype == "bfloat16"


def test_an_explicit_float16_has_no_fallback(tmp_path: Path) -> None:
    folder = save_large(tmp_path)
    with pytest.raises(ModelLoadError, match=r"not finite in float16 .*dtype='float32'"):
        Reranker(folder, device="cpu", dtype="float16", activation="none").rank("rain", TEXTS)
    assert Reranker(folder, device="cpu").engine.identity.dtype == "bfloat16"


def test_a_model_that_does_not_overflow_stays_in_float16(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    engine = Reranker(folder, device="cpu").engine
    assert engine.identity.dtype == "float16"
    assert not engine.backend.is_padded
    assert replace(engine.identity, dtype="float32") == (
        Reranker(folder, device=resolve_device("cpu"), dtype="float32").engine.identity
    )
