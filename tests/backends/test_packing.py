"""The padding-free forward pass computes what the padded one does."""

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
from rerank_plugins.backends.torch.batch import Inputs, PackedBatch
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.backends.torch.layers import Linear, seen_by_first
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
    wanted = padded.run(padded.prepare(pairs, 100))
    assert (packed.is_padded, padded.is_padded) == (False, True)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_cpu_few_different_numbers_of_tokens_occur_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Kernels for every number of tokens took a gigabyte of memory; float32 has one for all."""
    backend = load(save_reranker("bert", tmp_path), dtype)
    packed = backend._packed
    seen: list[int] = []
    assert packed is not None

    def watched(batch: PackedBatch) -> torch.Tensor:
        seen.append(len(batch.ids))
        return packed(batch)

    monkeypatch.setattr(backend, "_packed", watched)
    for count in range(1, 12):
        pairs = [TextPair(TEXTS[0], " ".join(TEXTS[:n])) for n in range(count)] * 3
        assert len(backend.run(backend.prepare(pairs, 60))) == len(pairs)
    assert (dtype == "bfloat16") == ({tokens % 64 for tokens in seen} == {0})


def test_threads_that_call_a_backend_at_once_do_not_share_its_buffers(tmp_path: Path) -> None:
    backend = load(save_reranker("bert", tmp_path))
    batches = [
        backend.prepare([TextPair(text, " ".join(TEXTS[:n]))] * 5) for n, text in enumerate(TEXTS)
    ]
    alone = [backend.run(batch) for batch in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        for _ in range(10):
            for wanted, seen in zip(alone, pool.map(backend.run, batches), strict=True):
                np.testing.assert_allclose(seen, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("architecture", ["bert", "deberta"])
def test_nothing_of_the_batch_before_is_left(
    architecture: str, device: str, tmp_path: Path
) -> None:
    """One buffer of the host serves batches of every size, one after another."""
    folder = save_reranker(architecture, tmp_path)
    config = ModelConfig(str(folder), device=device, dtype="float32")
    backend = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
    pairs = [TextPair(text, " ".join(TEXTS[:n])) for n, text in enumerate(TEXTS)]
    alone = [float(backend.run(backend.prepare([pair]))[0]) for pair in pairs]
    for count in (6, 1, 3, 6, 2):
        scores = backend.run(backend.prepare(pairs[:count]))
        np.testing.assert_allclose(scores, alone[:count], rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_other_activations_are_the_models_own(activation: str, tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": activation}))
    backend = load(folder)
    assert not backend.is_padded


def test_a_wrong_packing_is_found_at_load_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap of RoBERTa's positions: counted from 0, scores change and nothing crashes."""
    folder = save_reranker("xlm-roberta", tmp_path)
    right = load(folder)
    pairs = [TextPair(TEXTS[0], document) for document in TEXTS]
    usual = Inputs

    def from_zero(*args: Any, first: int, **kwargs: Any) -> Inputs:
        assert first == 2
        return usual(*args, first=0, **kwargs)

    monkeypatch.setattr(torch_model, "Inputs", from_zero)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        fallen_back = load(folder)
    assert fallen_back.is_padded
    assert "packed results differ" in caplog.text
    scores = [backend.run(backend.prepare(pairs)) for backend in (right, fallen_back)]
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
    seen = attend(query, key, value, packing, sliding_window=window)
    rows = []
    for start, length in zip(packing.firsts.tolist(), lengths, strict=True):
        part = slice(start, start + length)
        dots = torch.einsum("qhd,khd->hqk", query[part], key[part]) / 2
        if window is not None:
            place = torch.arange(length)
            dots[:, (place[:, None] - place[None]).abs() >= window] = -torch.inf
        rows.append(torch.einsum("hqk,khd->qhd", dots.softmax(-1), value[part]))
    torch.testing.assert_close(seen, torch.cat(rows), rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_first_tokens_see_what_keys_and_values_of_all_tokens_would_show(lengths: list[int]) -> None:
    lengths = sorted(lengths, reverse=True)
    packing = Packing.of(lengths, torch.tensor([0, *lengths]).cumsum(0).to(torch.int32))
    generator = torch.Generator().manual_seed(sum(lengths))
    hidden = torch.randn(sum(lengths), 12, generator=generator)
    mixing = Linear(
        torch.randn(12, 36, generator=generator) / 3, torch.randn(36, generator=generator)
    )
    seen = seen_by_first(mixing, hidden, packing, heads=(3, 4), scaling=0.5)
    query, key, value = (
        part.view(-1, 3, 4) for part in (hidden @ mixing.weight + mixing.bias).chunk(3, 1)
    )
    wanted = attend(query, key, value, packing, scaling=0.5)[packing.firsts]
    torch.testing.assert_close(seen, wanted.flatten(1), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", PACKED)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_flash_attention_equals_padded_float32(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    """On a CUDA device of compute capability 8.0 or more: varlen flash attention."""
    folder = save_reranker(architecture, tmp_path)
    pairs = [TextPair(TEXTS[0], " ".join(TEXTS[:n])) for n in range(7)]
    exact = TorchCrossEncoder(
        TorchCrossEncoder.resolve(ModelConfig(str(folder), device="cpu", dtype="float32"))
    )
    wanted = exact.run(exact.prepare(pairs))
    backend = TorchCrossEncoder(
        TorchCrossEncoder.resolve(
            ModelConfig(str(folder), device="cuda:0", dtype=dtype)  # type: ignore[arg-type]
        )
    )
    assert not backend.is_padded
    assert backend._packed is not None
    scores = backend.run(backend.prepare(pairs))
    assert np.abs(scores - wanted).max() < 0.05 * np.ptp(wanted)
