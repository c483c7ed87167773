"""The common prefix of a query's pairs is computed once, and scores do not change."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rerank_plugins import DecoderSpec, Reranker
from rerank_plugins.backends.decoder import forward
from rerank_plugins.types import TextPair
from tests.helpers.tiny_decoders import CONFIGS, save_logit_score
from tests.helpers.tiny_models import TEXTS


def backend_of(folder: Path, *, reuse: bool) -> Any:
    model = DecoderSpec(str(folder), prefix_reuse=reuse)
    return Reranker(model, dtype="float32").engine.backend


def record_token_counts(backend: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the number of tokens per forward pass, padding included."""
    token_counts: list[int] = []
    base = backend._forward._base

    def counted(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        token_counts.append(input_ids.numel())
        return base(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(backend._forward, "_base", counted)
    return token_counts


@pytest.mark.parametrize("architecture", CONFIGS)
def test_prefix_reuse_does_not_change_scores(architecture: str, tmp_path: Path) -> None:
    folder = save_logit_score(architecture, tmp_path)
    reusing, plain = backend_of(folder, reuse=True), backend_of(folder, reuse=False)
    assert reusing._forward.reuse
    pairs = [TextPair(query, text) for query in TEXTS[:3] for text in (*TEXTS, "", " \n a")]
    pairs += [TextPair("another query", "rain")]
    prepared = reusing.prepare(pairs)
    expected = np.concatenate([plain.run([item]) for item in prepared])
    scale = 1e-5 * (1 + np.abs(expected).max())
    np.testing.assert_allclose(reusing.run(prepared), expected, rtol=0, atol=scale)
    np.testing.assert_allclose(reusing.run(prepared[::-1])[::-1], expected, rtol=0, atol=scale)


def test_the_prefix_is_computed_once_per_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(save_logit_score("qwen3", tmp_path), reuse=True)
    token_counts = record_token_counts(backend, monkeypatch)
    prepared = backend.prepare([TextPair("who wrote it", text) for text in TEXTS])
    head = prepared[0].payload.head
    remaining = [item.tokens - head for item in prepared]
    backend.run(prepared[:3])
    backend.run(prepared[3:])
    assert token_counts == [head, 3 * max(remaining[:3]), 3 * max(remaining[3:])]


def test_the_number_of_cached_prefixes_is_limited(tmp_path: Path) -> None:
    backend = backend_of(save_logit_score("qwen3", tmp_path), reuse=True)
    for number in range(3 * forward._KEPT_PREFIXES):
        backend.run(backend.prepare([TextPair(f"query {number}", text) for text in ("a", "b")]))
    assert len(backend._forward._prefixes) == forward._KEPT_PREFIXES


def test_wrong_prefixes_disable_reuse_at_load_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_logit_score("qwen3", tmp_path)
    expected = backend_of(folder, reuse=False)
    original = forward.LastToken._prefix

    def wrong(self: Any, key: bytes) -> Any:
        return [(keys * 2, values) for keys, values in original(self, key)]

    monkeypatch.setattr(forward.LastToken, "_prefix", wrong)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        backend = backend_of(folder, reuse=True)
    assert not backend._forward.reuse
    assert "none is kept" in caplog.text
    prepared = backend.prepare([TextPair("rain", text) for text in TEXTS])
    np.testing.assert_allclose(backend.run(prepared), expected.run(prepared), rtol=0, atol=1e-5)
