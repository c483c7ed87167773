"""Score parity with sentence-transformers' CrossEncoder on the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from rerank_plugins import Reranker
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers.tiny_models import ARCHITECTURES, TEXTS, save_reranker

# These pairs fit: beyond the maximum length, CrossEncoder truncates the query as well.
PAIRS = [
    *[(query, document) for query in TEXTS[:2] for document in TEXTS],
    ("rain", ""),
    ("rain", "   "),
    ("rain", "a"),
    ("rain 🌧 дождь 雨", "Der Regen 雨 \u202eשלג\x00 fällt"),
    ("who wrote faust " * 20, "Goethe " * 20),
]


@pytest.fixture(params=ARCHITECTURES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker(request.param, tmp_path_factory.mktemp(request.param))


def reference(folder: Path, pairs: list[tuple[str, str]], dtype: str = "float32") -> FloatArray:
    kwargs = {"dtype": getattr(torch, dtype)}
    peer = CrossEncoder(str(folder), device="cpu", model_kwargs=kwargs)
    scores = peer.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(scores, dtype=np.float32)


def test_scores_equal_the_reference(folder: Path) -> None:
    scores = Reranker(folder, dtype="float32", activation="none").score(PAIRS)
    assert np.ptp(scores) > 0.1, "the test needs scores that differ"
    np.testing.assert_allclose(scores, reference(folder, PAIRS), rtol=0, atol=1e-5)


def test_the_document_is_truncated_and_the_query_is_not(folder: Path) -> None:
    """A truncated pair scores like the query with the beginning of the document."""
    query, document = TEXTS[0], " ".join(TEXTS * 40)
    reranker = Reranker(folder, dtype="float32", max_length=64, activation="none")
    ranking = reranker.rank(query, [document])
    assert ranking[0].truncated
    assert ranking.stats.truncated == 1
    assert ranking.stats.tokens == 64
    peer = CrossEncoder(str(folder), device="cpu", max_length=64)
    ids = peer.tokenizer(query, document, truncation="only_second", max_length=64)
    with torch.inference_mode():
        expected = peer.model(**{name: torch.tensor([row]) for name, row in ids.items()}).logits
    assert ranking[0].raw_score == pytest.approx(float(expected), abs=1e-5)


def test_the_query_is_truncated_only_beyond_half(folder: Path) -> None:
    backend = Reranker(folder, dtype="float32").engine.backend
    long_query, long_document = " ".join(TEXTS * 10), " ".join(TEXTS * 40)
    pairs = [TextPair(long_query, long_document), TextPair(long_query, "")]
    both, query_only = backend.prepare(pairs, max_length=64)
    assert both.tokens == 64
    # The query gets half of max_length; special tokens are taken from the document's half.
    special = backend._pairs._template.special_tokens  # type: ignore[attr-defined]
    assert query_only.tokens == 32 + special


def test_two_labels_use_the_second(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path, labels=2)
    peer = CrossEncoder(str(folder), device="cpu")
    expected = peer.predict(PAIRS, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    scores = Reranker(folder, dtype="float32", activation="none").score(PAIRS)
    np.testing.assert_allclose(scores, np.asarray(expected)[:, 1], rtol=0, atol=1e-5)


def test_max_seq_length_is_that_of_the_model(tmp_path: Path) -> None:
    """RoBERTa's 514 positions allow 512 tokens, even if max_length is larger."""
    folder = save_reranker("roberta", tmp_path)
    reranker = Reranker(folder, dtype="float32", max_length=100_000, activation="none")
    assert reranker.engine.backend.identity.max_length == 512
    ranking = reranker.rank("rain", [" ".join(TEXTS * 200)])
    assert ranking.stats.tokens == 512


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_as_close_as_that_of_the_reference(folder: Path, dtype: str) -> None:
    """The error of half precision depends on the random model, so the reference sets the bound."""
    exact = Reranker(folder, dtype="float32", activation="none").score(PAIRS)
    half = Reranker(folder, dtype=dtype, activation="none").score(PAIRS)  # type: ignore[arg-type]
    assert half.dtype == np.float64
    reference_error = np.abs(reference(folder, PAIRS, dtype) - exact).max()
    assert np.abs(half - exact).max() < 2 * reference_error + 0.02 * np.ptp(exact)
