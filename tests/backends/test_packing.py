"""Parity of the padding-free forward pass with the padded one."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins.backends.torch import cross_encoder as torch_model
from rerank_plugins.backends.torch.attention import Packing, attend
from rerank_plugins.backends.torch.batch import BatchBuilder, PackedBatch
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.backends.torch.layers import Linear, attend_cls_only
from rerank_plugins.config import ModelConfig
from rerank_plugins.types import TextPair
from tests.helpers.tiny_models import ARCHITECTURES, TEXTS, save_reranker

PACKED = ("bert", "electra", "roberta", "xlm-roberta", "modernbert")


def load(folder: Path, dtype: str = "float32") -> TorchCrossEncoder:
    config = ModelConfig(model=str(folder), dtype=dtype)  # type: ignore[arg-type]
    return TorchCrossEncoder(TorchCrossEncoder.resolve(config))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_known_architecture_is_packed(architecture: str, tmp_path: Path) -> None:
    assert load(save_reranker(architecture, tmp_path)).is_padded == (architecture not in PACKED)


@pytest.mark.parametrize("architecture", PACKED)
@pytest.mark.parametrize("labels", [1, 2])
def test_packed_equals_padded(
    architecture: str, labels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_reranker(architecture, tmp_path, labels=labels)
    pairs = [TextPair(query, " ".join(TEXTS[:n])) for n in range(7) for query in (TEXTS[0], "")]
    packed = load(folder)
    scores = packed.run(packed.prepare(pairs, 100))
    monkeypatch.setattr(torch_model, "can_pack", lambda _: False)
    padded = load(folder)
    expected = padded.run(padded.prepare(pairs, 100))
    assert (packed.is_padded, padded.is_padded) == (False, True)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_token_counts_are_rounded_up_in_half_precision_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """A kernel per number of tokens takes a gigabyte of memory; float32 uses one kernel."""
    backend = load(save_reranker("bert", tmp_path), dtype)
    packed = backend._packed
    token_counts: list[int] = []
    assert packed is not None

    def recorded(batch: PackedBatch) -> torch.Tensor:
        token_counts.append(len(batch.ids))
        return packed(batch)

    monkeypatch.setattr(backend, "_packed", recorded)
    for count in range(1, 12):
        pairs = [TextPair(TEXTS[0], " ".join(TEXTS[:n])) for n in range(count)] * 3
        assert len(backend.run(backend.prepare(pairs, 60))) == len(pairs)
    assert (dtype == "bfloat16") == ({tokens % 64 for tokens in token_counts} == {0})


def test_concurrent_threads_do_not_share_buffers(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    batches = [
        backend.prepare([TextPair(text, " ".join(TEXTS[:n]))] * 5) for n, text in enumerate(TEXTS)
    ]
    serial = [backend.run(batch) for batch in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        for _ in range(10):
            for expected, scores in zip(serial, pool.map(backend.run, batches), strict=True):
                np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("architecture", ["bert", "deberta"])
def test_the_previous_batch_does_not_change_scores(
    architecture: str, device: str, tmp_path: Path
) -> None:
    """One host buffer is reused for batches of every size."""
    folder = save_reranker(architecture, tmp_path)
    config = ModelConfig(str(folder), device=device, dtype="float32")
    backend = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
    pairs = [TextPair(text, " ".join(TEXTS[:n])) for n, text in enumerate(TEXTS)]
    single = [float(backend.run(backend.prepare([pair]))[0]) for pair in pairs]
    for count in (6, 1, 3, 6, 2):
        scores = backend.run(backend.prepare(pairs[:count]))
        np.testing.assert_allclose(scores, single[:count], rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_other_activations_are_supported(activation: str, tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": activation}))
    backend = load(folder)
    assert not backend.is_padded


def test_a_wrong_packed_model_is_detected_at_load_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """RoBERTa's positions counted from 0 change scores without an error."""
    folder = save_reranker("xlm-roberta", tmp_path)
    correct = load(folder)
    pairs = [TextPair(TEXTS[0], document) for document in TEXTS]
    original = BatchBuilder

    def from_zero(*args: Any, first_position: int, **kwargs: Any) -> BatchBuilder:
        assert first_position == 2
        return original(*args, first_position=0, **kwargs)

    monkeypatch.setattr(torch_model, "BatchBuilder", from_zero)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        fallback = load(folder)
    assert fallback.is_padded
    assert "packed results differ" in caplog.text
    scores = [backend.run(backend.prepare(pairs)) for backend in (correct, fallback)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.sampled_from([None, 1, 3, 50]),
)
def test_attention_stays_within_each_sequence(lengths: list[int], window: int | None) -> None:
    lengths = sorted(lengths, reverse=True)
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    packing = Packing.of(lengths, bounds)
    generator = torch.Generator().manual_seed(sum(lengths))
    query, key, value = (torch.randn(sum(lengths), 2, 4, generator=generator) for _ in range(3))
    context = attend(query, key, value, packing, sliding_window=window)
    rows = []
    for start, length in zip(packing.starts.tolist(), lengths, strict=True):
        part = slice(start, start + length)
        dots = torch.einsum("qhd,khd->hqk", query[part], key[part]) / 2
        if window is not None:
            position = torch.arange(length)
            dots[:, (position[:, None] - position[None]).abs() >= window] = -torch.inf
        rows.append(torch.einsum("hqk,khd->qhd", dots.softmax(-1), value[part]))
    torch.testing.assert_close(context, torch.cat(rows), rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_cls_only_attention_equals_full_attention(lengths: list[int]) -> None:
    lengths = sorted(lengths, reverse=True)
    packing = Packing.of(lengths, torch.tensor([0, *lengths]).cumsum(0).to(torch.int32))
    generator = torch.Generator().manual_seed(sum(lengths))
    hidden = torch.randn(sum(lengths), 12, generator=generator)
    qkv = Linear(torch.randn(12, 36, generator=generator) / 3, torch.randn(36, generator=generator))
    context = attend_cls_only(qkv, hidden, packing, heads=(3, 4), scaling=0.5)
    query, key, value = (
        part.view(-1, 3, 4) for part in (hidden @ qkv.weight + qkv.bias).chunk(3, 1)
    )
    expected = attend(query, key, value, packing, scaling=0.5)[packing.starts]
    torch.testing.assert_close(context, expected.flatten(1), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", PACKED)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_flash_attention_equals_padded_float32(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    """Variable-length flash attention, on a CUDA device of compute capability 8.0 or more."""
    folder = save_reranker(architecture, tmp_path)
    pairs = [TextPair(TEXTS[0], " ".join(TEXTS[:n])) for n in range(7)]
    reference = TorchCrossEncoder(
        TorchCrossEncoder.resolve(ModelConfig(str(folder), device="cpu", dtype="float32"))
    )
    expected = reference.run(reference.prepare(pairs))
    backend = TorchCrossEncoder(
        TorchCrossEncoder.resolve(
            ModelConfig(str(folder), device="cuda:0", dtype=dtype)  # type: ignore[arg-type]
        )
    )
    assert not backend.is_padded
    assert backend._packed is not None
    scores = backend.run(backend.prepare(pairs))
    assert np.abs(scores - expected).max() < 0.05 * np.ptp(expected)
