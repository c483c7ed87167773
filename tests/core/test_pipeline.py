"""Reranker options: fusion, deadlines, error handling, near-duplicates and prompts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import BiEncoder, Dedup, Fusion, RankedDocument, Ranking, Reranker
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, InferenceError, InvalidInputError
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.types import FloatArray, ModelIdentity
from tests.helpers.engines import FaultyCrossEncoder, GatedCrossEncoder, raise_for
from tests.helpers.strategies import documents, queries, words

TEXTS = ["sun", "rain", "snow and rain", "wind", ""]
some_queries = words.filter(bool) | queries


def indices(ranking: Sequence[RankedDocument]) -> list[int]:
    return [document.index for document in ranking]


def first_stage(texts: list[str]) -> list[float]:
    return [float(len(text) % 4) for text in texts]


@given(some_queries, documents, st.sampled_from(["rrf", "weighted"]))
def test_fusion_weights_1_and_0_are_the_two_rankings(
    query: str, texts: list[str], method: Any
) -> None:
    first_scores = first_stage(texts)
    unfused = Reranker(FakeCrossEncoder()).rank(query, texts)
    weight_1 = Reranker(FakeCrossEncoder(), fusion=Fusion(method, 1))
    weight_0 = Reranker(FakeCrossEncoder(), fusion=Fusion(method, 0))
    assert indices(weight_1.rank(query, texts, retrieval_scores=first_scores)) == indices(unfused)
    expected = sorted(range(len(texts)), key=lambda index: -first_scores[index])
    assert indices(weight_0.rank(query, texts, retrieval_scores=first_scores)) == expected
    assert indices(weight_0.rank(query, texts)) == list(range(len(texts)))


def test_relevance_scores_are_fused_and_raw_scores_unchanged() -> None:
    reranker = Reranker(FakeCrossEncoder(), fusion=Fusion("weighted", 0.5))
    ranking = reranker.rank("rain", TEXTS, retrieval_scores=[5, 4, 3, 2, 1])
    assert ranking[0].relevance_score == max(document.relevance_score for document in ranking)
    shown = [document.relevance_score for document in ranking]
    assert shown == sorted(shown, reverse=True)
    plain = {
        document.index: document.raw_score
        for document in Reranker(FakeCrossEncoder()).rank("rain", TEXTS)
    }
    assert {document.index: document.raw_score for document in ranking} == plain
    many = reranker.rank_many(
        [("rain", TEXTS), ("sun", [])], retrieval_scores=[[5, 4, 3, 2, 1], None]
    )
    assert many[0] == ranking


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "shape .1,. for 5 documents"),
        ([1, 2, 3, 4, math.nan], r"\[4\] is nan"),
        (["a"] * 5, "not a list of numbers"),
        ([[1, 2, 3, 4, 5]], "shape .1, 5."),
    ],
)
def test_invalid_first_stage_scores_are_refused(scores: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Reranker(FakeCrossEncoder()).rank("rain", TEXTS, retrieval_scores=scores)
    with pytest.raises(InvalidInputError, match="1 elements for 2 requests"):
        Reranker(FakeCrossEncoder()).rank_many([("a", []), ("b", [])], retrieval_scores=[None])


def calibrator(model: str = "fake") -> Calibrator:
    scores = np.linspace(-4, 4, 40)
    labels = (np.arange(40) * 7 % 40 < np.arange(40)).astype(int)
    return Calibrator.fit(scores, labels, model=ModelIdentity(model, None, "x", "float32", 512))


def test_a_calibrator_sets_the_relevance_scores(tmp_path: Path) -> None:
    fitted = calibrator()
    fitted.save(tmp_path / "fitted.json")
    for source in (fitted, tmp_path / "fitted.json", str(tmp_path / "fitted.json")):
        ranking = Reranker(FakeCrossEncoder(), activation=source).rank("rain", TEXTS)
        raw = np.array([document.raw_score for document in ranking], dtype=np.float32)
        assert [document.relevance_score for document in ranking] == fitted(raw).tolist()
    assert indices(ranking) == indices(Reranker(FakeCrossEncoder()).rank("rain", TEXTS))


def test_a_calibrator_with_a_fusion_is_refused() -> None:
    """A fused score is not a model score, so it has no calibrated probability."""
    with pytest.raises(ConfigurationError, match=r"fusion is 'rrf' and activation is a calibrator"):
        Reranker(FakeCrossEncoder(), activation=calibrator("fake"), fusion="rrf")


def test_a_calibrator_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fitted on scores of 'other'"):
        Reranker(FakeCrossEncoder(), activation=calibrator("other")).rank("rain", TEXTS)


@given(some_queries, documents)
def test_a_distant_deadline_changes_nothing(query: str, texts: list[str]) -> None:
    reranker = Reranker(FakeCrossEncoder(batch_tokens=16))
    for distant in (1e7, math.inf):
        assert reranker.rank(query, texts, deadline_ms=distant) == reranker.rank(query, texts)


class SlowCrossEncoder(FakeCrossEncoder):
    """A cross-encoder that takes 20 milliseconds per pair."""

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        time.sleep(0.02 * len(batch))
        return super().run(batch)


@pytest.mark.parametrize("reranks", [0, 3])
def test_documents_unscored_at_the_deadline_keep_their_order(reranks: int) -> None:
    texts = [f"rain {number} " + "word " * (number % 5) for number in range(60)]
    reranker = Reranker(SlowCrossEncoder(), deadline_ms=600)
    for _ in range(reranks):
        reranker.rank("rain", texts)
    start = time.perf_counter()
    ranking = reranker.rank("rain", texts)
    assert time.perf_counter() - start < 1.1
    assert ranking.status == "partial"
    assert sorted(indices(ranking)) == list(range(60))
    scored = [document for document in ranking if document.scored]
    rest = [document for document in ranking if not document.scored]
    assert 0 < len(scored) == ranking.stats.scored < 60
    assert list(ranking) == [*scored, *rest]
    assert indices(rest) == sorted(indices(rest))
    assert sorted(indices(scored)) == list(range(len(scored)))
    assert all(
        math.isnan(document.relevance_score) and math.isnan(document.raw_score) for document in rest
    )
    json.dumps(ranking.to_dict(), allow_nan=False)
    assert len(reranker.rank("rain", texts, deadline_ms=None)) == 60


def test_a_threshold_keeps_unscored_documents() -> None:
    backend = GatedCrossEncoder()
    reranker = Reranker(backend, score_threshold=0.9, deadline_ms=30)
    ranking = reranker.rank("rain", TEXTS)
    backend.gate.set()
    assert indices(ranking) == list(range(5))
    assert ranking.status == "partial"


async def test_a_deadline_applies_to_async_calls() -> None:
    backend = GatedCrossEncoder()
    ranking = await Reranker(backend, deadline_ms=30).arank("rain", TEXTS)
    backend.gate.set()
    assert (ranking.status, ranking.stats.scored) == ("partial", 0)


async def test_passthrough_returns_the_documents_after_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = FaultyCrossEncoder(raise_for("rain", RuntimeError("the model broke")))
    with pytest.raises(InferenceError, match="the model broke"):
        Reranker(backend).rank("rain", TEXTS)
    reranker = Reranker(backend, on_error="passthrough", top_n=3, score_threshold=0.5)
    for ranking in (reranker.rank("rain", TEXTS), await reranker.arank("rain", TEXTS)):
        assert indices(ranking) == [0, 1, 2]
        assert ranking.status == "failed"
        assert ranking.model is None
        assert "the model broke" in str(ranking.error)
        assert not any(document.scored for document in ranking)
    assert "InferenceError" in caplog.text
    assert "the model broke" not in caplog.text  # an error message may contain document texts
    assert "sun" not in caplog.text


def test_a_failed_request_does_not_affect_the_others() -> None:
    backend = FaultyCrossEncoder(raise_for("rain", RuntimeError("the model broke")))
    reranker = Reranker(backend, on_error="passthrough")
    rankings = reranker.rank_many([("sun", TEXTS), ("rain", TEXTS), ("wind", TEXTS)])
    assert [ranking.status for ranking in rankings] == ["complete", "failed", "complete"]
    assert rankings[0] == Reranker(FakeCrossEncoder()).rank("sun", TEXTS)


def test_passthrough_does_not_apply_to_invalid_input() -> None:
    with pytest.raises(InvalidInputError):
        Reranker(FakeCrossEncoder(), on_error="passthrough").rank("", TEXTS)


REPEATED = ["rain falls now", "sun", "rain falls now", "falls now rain", "rain falls", "wind"]


@pytest.mark.parametrize("top_n", [None, 1, 3])
async def test_near_duplicates_are_removed_after_ranking(top_n: int | None) -> None:
    everything = Reranker(FakeCrossEncoder()).rank("rain falls", REPEATED)
    encoder = BiEncoder(FakeBiEncoder())
    reranker = Reranker(FakeCrossEncoder(), dedup=Dedup(0.99, model=encoder), top_n=top_n)
    ranking = reranker.rank("rain falls", REPEATED)
    bags: list[list[str]] = []
    expected = []
    for document in everything:
        if sorted(document.text.split()) not in bags:
            bags.append(sorted(document.text.split()))
            expected.append(document)
    assert list(ranking) == expected[:top_n]
    assert await reranker.arank("rain falls", REPEATED) == ranking


def test_duplicates_are_kept_by_default() -> None:
    assert len(Reranker(FakeCrossEncoder()).rank("rain", ["a", "a", "a"])) == 3


class PromptedCrossEncoder(FakeCrossEncoder):
    """A cross-encoder whose configuration has prompts."""

    prompts = {"query": "find: ", "document": "text: "}  # noqa: RUF012


@pytest.mark.parametrize(
    ("settings", "query", "document"),
    [
        ({}, "find: rain", "text: sun"),
        ({"prompts": {"query": ""}}, "rain", "text: sun"),
        ({"prompts": {"query": "q: ", "document": "d: "}}, "q: rain", "d: sun"),
    ],
)
def test_prompts_are_prepended_to_the_texts(
    settings: dict[str, str], query: str, document: str
) -> None:
    backend = PromptedCrossEncoder()
    ranking = Reranker(backend, **settings).rank("rain", ["sun"])  # type: ignore[arg-type]
    assert [tuple(pair) for pair in backend.batches[0]] == [(query, document)]
    assert (ranking.query, ranking[0].text) == ("rain", "sun")


def test_every_window_has_room_for_the_prompt() -> None:
    backend = FakeCrossEncoder(max_length=16)
    reranker = Reranker(
        backend, max_length=None, long_documents="windows", prompts={"document": "a b c: "}
    )
    ranking: Ranking = reranker.rank("rain", ["sun " * 50])
    pairs = [pair for batch in backend.batches for pair in batch]
    assert all(pair.document.startswith("a b c: sun") for pair in pairs)
    assert ranking.stats.truncated == 0
