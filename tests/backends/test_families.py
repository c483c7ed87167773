"""Scores of every architecture in docs/models.md equal those of a reference library."""

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

# Pairs below the maximum length: for longer ones the references truncate the query.
PAIRS = [
    *[(query, document) for query in TEXTS[:2] for document in TEXTS[:3]],
    ("rain", ""),
    ("rain", "   "),
    ("rain\n", "a"),
    ("x", "\n\n b "),
    ("rain 🌧 дождь 雨", "Der Regen 雨 \u202eשלג\x00 fällt"),
    ("who wrote faust " * 8, "Goethe " * 8),
]


def tolerance(expected: FloatArray) -> float:
    """Return the allowed difference between summation orders in float32."""
    return 1e-5 * (1 + float(np.abs(expected).max()))


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    case = CASES[request.param]
    if case.library == "FlagEmbedding" and find_spec("FlagEmbedding") is None:
        pytest.skip("the extra flag is not installed")
    return case


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.save(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def expected(case: Case, folder: Path) -> FloatArray:
    scores = case.reference(folder, PAIRS)
    assert np.ptp(scores) > 0.1, "nearly equal scores prove nothing"
    return scores


@pytest.mark.filterwarnings("ignore")  # warnings of the reference libraries
def test_scores_equal_the_reference(case: Case, folder: Path, expected: FloatArray) -> None:
    reranker = Reranker(case.model(folder), dtype="float32", activation="none")
    assert reranker.engine.backend.identity.backend == case.backend
    np.testing.assert_allclose(reranker.score(PAIRS), expected, rtol=0, atol=tolerance(expected))


@pytest.mark.filterwarnings("ignore")
def test_other_backends_give_the_same_scores(
    case: Case, folder: Path, expected: FloatArray
) -> None:
    for backend in case.others:
        scores = Reranker(
            case.model(folder), backend=backend, dtype="float32", activation="none"
        ).score(PAIRS)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance(expected))


def test_truncation_removes_only_the_end_of_the_document(case: Case, folder: Path) -> None:
    """A truncated document has the tokens of a shorter document with the same beginning."""
    reranker = Reranker(case.model(folder), dtype="float32", max_length=None)
    backend = reranker.engine.backend
    long = " ".join(TEXTS * 60)
    (whole,) = backend.prepare([TextPair("who wrote faust", long)])
    (short,) = backend.prepare([TextPair("who wrote faust", long[:400])])
    assert whole.truncated
    assert not short.truncated
    assert whole.tokens == backend.identity.max_length
    end = getattr(short.payload, "tail", 1)
    truncated_ids, short_ids = np.asarray(whole.payload.ids), np.asarray(short.payload.ids)
    np.testing.assert_array_equal(
        truncated_ids[len(truncated_ids) - end :], short_ids[len(short_ids) - end :]
    )
    # Without the last token of the shorter document, which may end inside a word.
    common = len(short_ids) - end - 1
    np.testing.assert_array_equal(truncated_ids[:common], short_ids[:common])


def test_a_query_beyond_the_maximum_length_leaves_room_for_the_document(
    case: Case, folder: Path
) -> None:
    reranker = Reranker(case.model(folder), dtype="float32", activation="none", max_length=None)
    backend = reranker.engine.backend
    query = " ".join(TEXTS * 60)
    first, second = backend.prepare([TextPair(query, "rain"), TextPair(query, "snow")])
    assert first.truncated
    assert first.tokens <= backend.identity.max_length
    assert not np.array_equal(first.payload.ids, second.payload.ids)
    assert np.isfinite(reranker.score([(query, "rain")])).all()


def test_no_remote_code_was_loaded() -> None:
    assert "transformers_modules" not in sys.modules
