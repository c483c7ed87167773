"""Every architecture of docs/models.md scores as the library that defines it does."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rerank_plugins import Reranker
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers.families import CASES, Case
from tests.helpers.tiny_models import TEXTS

# Pairs that fit: beyond the maximum length the peers cut the query, and we do not.
PAIRS = [
    *[(query, document) for query in TEXTS[:2] for document in TEXTS[:3]],
    ("rain", ""),
    ("rain", "   "),
    ("rain\n", "a"),
    ("x", "\n\n b "),
    ("rain 🌧 дождь 雨", "Der Regen 雨 \u202eשלג\x00 fällt"),
    ("who wrote faust " * 8, "Goethe " * 8),
]


def tolerance(wanted: FloatArray) -> float:
    """Return what different orders of summing may cost in float32."""
    return 1e-5 * (1 + float(np.abs(wanted).max()))


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    found = CASES[request.param]
    if found.library == "FlagEmbedding" and find_spec("FlagEmbedding") is None:
        pytest.skip("the extra flag is not installed")
    return found


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.save(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def wanted(case: Case, folder: Path) -> FloatArray:
    scores = case.reference(folder, PAIRS)
    assert np.ptp(scores) > 0.1, "scores that hardly differ would prove nothing"
    return scores


@pytest.mark.filterwarnings("ignore")  # of the libraries that are compared with
def test_scores_equal_the_references(case: Case, folder: Path, wanted: FloatArray) -> None:
    reranker = Reranker(case.model(folder), dtype="float32")
    assert reranker.engine.backend.identity.backend == case.backend
    np.testing.assert_allclose(reranker.score(PAIRS), wanted, rtol=0, atol=tolerance(wanted))


@pytest.mark.filterwarnings("ignore")
def test_other_backends_give_the_same_scores(case: Case, folder: Path, wanted: FloatArray) -> None:
    for backend in case.others:
        scores = Reranker(case.model(folder), backend=backend, dtype="float32").score(PAIRS)
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=tolerance(wanted))


def test_a_cut_document_loses_its_end_and_nothing_else(case: Case, folder: Path) -> None:
    """The longest beginning that fits scores the same as what is cut to it."""
    reranker = Reranker(case.model(folder), dtype="float32", max_length=None)
    backend = reranker.engine.backend
    long = " ".join(TEXTS * 60)
    (whole,) = backend.prepare([TextPair("who wrote faust", long)])
    (short,) = backend.prepare([TextPair("who wrote faust", long[:400])])
    assert whole.truncated
    assert not short.truncated
    assert whole.tokens == backend.identity.max_length
    end = getattr(short.payload, "tail", 1)
    cut, begun = np.asarray(whole.payload.ids), np.asarray(short.payload.ids)
    np.testing.assert_array_equal(cut[len(cut) - end :], begun[len(begun) - end :])
    # All but the last token of the shorter document, whose word is not whole.
    kept = len(begun) - end - 1
    np.testing.assert_array_equal(cut[:kept], begun[:kept])


def test_a_query_longer_than_the_reach_leaves_room_for_the_document(
    case: Case, folder: Path
) -> None:
    reranker = Reranker(case.model(folder), dtype="float32", max_length=None)
    backend = reranker.engine.backend
    query = " ".join(TEXTS * 60)
    first, second = backend.prepare([TextPair(query, "rain"), TextPair(query, "snow")])
    assert first.truncated
    assert first.tokens <= backend.identity.max_length
    assert not np.array_equal(first.payload.ids, second.payload.ids)
    assert np.isfinite(reranker.score([(query, "rain")])).all()


def test_no_network_and_no_remote_code() -> None:
    assert "transformers_modules" not in sys.modules
