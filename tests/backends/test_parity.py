"""Our scores are those of sentence-transformers' CrossEncoder on the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from rerank_plugins import Reranker
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers.tiny_models import ARCHITECTURES, TEXTS, save_reranker

# Pairs that fit: beyond the maximum length the peers cut the query, and we do not.
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
    scores = Reranker(folder, dtype="float32").score(PAIRS)
    assert np.ptp(scores) > 0.1, "scores that hardly differ would prove nothing"
    np.testing.assert_allclose(scores, reference(folder, PAIRS), rtol=0, atol=1e-5)


def test_document_is_cut_and_the_query_is_not(folder: Path) -> None:
    """A cut pair scores as the pair of the whole query and the document's beginning."""
    query, document = TEXTS[0], " ".join(TEXTS * 40)
    reranker = Reranker(folder, dtype="float32", max_length=64)
    ranking = reranker.rank(query, [document])
    assert ranking[0].truncated
    assert ranking.stats.truncated == 1
    assert ranking.stats.tokens == 64
    peer = CrossEncoder(str(folder), device="cpu", max_length=64)
    ids = peer.tokenizer(query, document, truncation="only_second", max_length=64)
    with torch.inference_mode():
        wanted = peer.model(**{name: torch.tensor([row]) for name, row in ids.items()}).logits
    assert ranking[0].raw_score == pytest.approx(float(wanted), abs=1e-5)


def test_query_is_cut_only_beyond_half(folder: Path) -> None:
    backend = Reranker(folder, dtype="float32").engine.backend
    long_query, long_document = " ".join(TEXTS * 10), " ".join(TEXTS * 40)
    pairs = [TextPair(long_query, long_document), TextPair(long_query, "")]
    both, alone = backend.prepare(pairs, max_length=64)
    assert both.tokens == 64
    # Half of max_length is the query's: the special tokens come from the document's half.
    special = backend._pairs._template.special_tokens  # type: ignore[attr-defined]
    assert alone.tokens == 32 + special


def test_two_labels_use_the_second(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path, labels=2)
    peer = CrossEncoder(str(folder), device="cpu")
    wanted = peer.predict(PAIRS, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    scores = Reranker(folder, dtype="float32").score(PAIRS)
    np.testing.assert_allclose(scores, np.asarray(wanted)[:, 1], rtol=0, atol=1e-5)


def test_reach_is_the_models_own(tmp_path: Path) -> None:
    """RoBERTa's 514 positions reach 512 tokens, whatever max_length asks for."""
    folder = save_reranker("roberta", tmp_path)
    reranker = Reranker(folder, dtype="float32", max_length=100_000)
    assert reranker.engine.backend.identity.max_length == 512
    ranking = reranker.rank("rain", [" ".join(TEXTS * 200)])
    assert ranking.stats.tokens == 512


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_as_close_as_the_references(folder: Path, dtype: str) -> None:
    """How far half precision strays depends on the random model, so the reference tells."""
    exact = Reranker(folder, dtype="float32").score(PAIRS)
    half = Reranker(folder, dtype=dtype).score(PAIRS)  # type: ignore[arg-type]
    assert half.dtype == np.float32
    strays = np.abs(reference(folder, PAIRS, dtype) - exact).max()
    assert np.abs(half - exact).max() < 2 * strays + 0.02 * np.ptp(exact)
