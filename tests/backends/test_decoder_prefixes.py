"""Cached prefixes of decoder prompts: computed once per query, without a change of scores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rerank_plugins import DecoderSpec, Reranker
from rerank_plugins.backends.decoder import loading as forward
from rerank_plugins.types import TextPair
from tests.helpers.tiny_decoders import CONFIGS, save_logit_score
from tests.helpers.tiny_models import TEXTS


def backend_of(folder: Path, *, reuse: bool) -> Any:
    model = DecoderSpec(str(folder), prefix_reuse=reuse)
    return Reranker(model, dtype="float32").engine.backend


def record_tokens(backend: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of tokens of each call of the model, padding included."""
    token_counts: list[int] = []
    base = backend._model._base

    def counted(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        token_counts.append(input_ids.numel())
        return base(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(backend._model, "_base", counted)
    return token_counts


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_batch_of_many_queries_scores_the_same(architecture: str, tmp_path: Path) -> None:
    folder = save_logit_score(architecture, tmp_path)
    cached, uncached = backend_of(folder, reuse=True), backend_of(folder, reuse=False)
    assert cached._model.reuse
    pairs = [TextPair(query, text) for query in TEXTS[:3] for text in (*TEXTS, "", " \n a")]
    pairs += [TextPair("asked once", "rain")]
    prepared = cached.prepare(pairs)
    expected = np.concatenate([uncached.run([item]) for item in prepared])
    tolerance = 1e-5 * (1 + np.abs(expected).max())
    np.testing.assert_allclose(cached.run(prepared), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(cached.run(prepared[::-1])[::-1], expected, rtol=0, atol=tolerance)


def test_the_prefix_is_computed_once_per_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(save_logit_score("qwen3", tmp_path), reuse=True)
    token_counts = record_tokens(backend, monkeypatch)
    prepared = backend.prepare([TextPair("who wrote it", text) for text in TEXTS])
    head = prepared[0].payload.head
    lengths = [item.tokens - head for item in prepared]
    backend.run(prepared[:3])
    backend.run(prepared[3:])
    assert token_counts == [head, 3 * max(lengths[:3]), 3 * max(lengths[3:])]


def test_the_number_of_cached_prefixes_is_limited(tmp_path: Path) -> None:
    backend = backend_of(save_logit_score("qwen3", tmp_path), reuse=True)
    for number in range(3 * forward._MAX_PREFIXES):
        backend.run(backend.prepare([TextPair(f"query {number}", text) for text in ("a", "b")]))
    assert len(backend._model._prefixes) == forward._MAX_PREFIXES


def test_a_wrong_prefix_is_detected_at_load_and_none_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_logit_score("qwen3", tmp_path)
    correct = backend_of(folder, reuse=False)
    original = forward.LastTokenScorer._prefix

    def wrong(self: Any, key: bytes) -> Any:
        return [(keys * 2, values) for keys, values in original(self, key)]

    monkeypatch.setattr(forward.LastTokenScorer, "_prefix", wrong)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        backend = backend_of(folder, reuse=True)
    assert not backend._model.reuse
    assert "no prefix is cached" in caplog.text
    prepared = backend.prepare([TextPair("rain", text) for text in TEXTS])
    np.testing.assert_allclose(backend.run(prepared), correct.run(prepared), rtol=0, atol=1e-5)
