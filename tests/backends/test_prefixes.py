"""What pairs of a query begin with is computed once, and no score changes."""

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


def watch(backend: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many tokens each call of the model reads, padding included."""
    seen: list[int] = []
    base = backend._forward._base

    def counted(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        seen.append(input_ids.numel())
        return base(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(backend._forward, "_base", counted)
    return seen


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_batch_of_many_queries(architecture: str, tmp_path: Path) -> None:
    folder = save_logit_score(architecture, tmp_path)
    kept, whole = backend_of(folder, reuse=True), backend_of(folder, reuse=False)
    assert kept._forward.reuse
    pairs = [TextPair(query, text) for query in TEXTS[:3] for text in (*TEXTS, "", " \n a")]
    pairs += [TextPair("asked once", "rain")]
    prepared = kept.prepare(pairs)
    wanted = np.concatenate([whole.run([one]) for one in prepared])
    scale = 1e-5 * (1 + np.abs(wanted).max())
    np.testing.assert_allclose(kept.run(prepared), wanted, rtol=0, atol=scale)
    np.testing.assert_allclose(kept.run(prepared[::-1])[::-1], wanted, rtol=0, atol=scale)


def test_the_prefix_is_computed_once_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(save_logit_score("qwen3", tmp_path), reuse=True)
    seen = watch(backend, monkeypatch)
    prepared = backend.prepare([TextPair("who wrote it", text) for text in TEXTS])
    head = prepared[0].payload.head
    own = [one.tokens - head for one in prepared]
    backend.run(prepared[:3])
    backend.run(prepared[3:])
    assert seen == [head, 3 * max(own[:3]), 3 * max(own[3:])]


def test_few_prefixes_are_kept(tmp_path: Path) -> None:
    backend = backend_of(save_logit_score("qwen3", tmp_path), reuse=True)
    for number in range(3 * forward._KEPT_PREFIXES):
        backend.run(backend.prepare([TextPair(f"query {number}", text) for text in ("a", "b")]))
    assert len(backend._forward._prefixes) == forward._KEPT_PREFIXES


def test_a_wrong_prefix_is_found_at_load_and_none_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_logit_score("qwen3", tmp_path)
    right = backend_of(folder, reuse=False)
    usual = forward.LastToken._prefix

    def wrong(self: Any, key: bytes) -> Any:
        return [(keys * 2, values) for keys, values in usual(self, key)]

    monkeypatch.setattr(forward.LastToken, "_prefix", wrong)
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        backend = backend_of(folder, reuse=True)
    assert not backend._forward.reuse
    assert "none is kept" in caplog.text
    prepared = backend.prepare([TextPair("rain", text) for text in TEXTS])
    np.testing.assert_allclose(backend.run(prepared), right.run(prepared), rtol=0, atol=1e-5)
