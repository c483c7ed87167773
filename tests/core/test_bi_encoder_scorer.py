"""Cosine similarity scores, with and without stored embeddings."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from rerank_plugins import BiEncoder, BiEncoderScorer, Reranker
from rerank_plugins.errors import ConfigurationError, InvalidInputError, InvalidScoresError
from rerank_plugins.testing import FakeBiEncoder
from rerank_plugins.types import ScoringRequest

TEXTS = ["rain and sun", "sun", "hail", "sun", ""]


@pytest.fixture
def fake() -> FakeBiEncoder:
    return FakeBiEncoder()


def embedded(fake: FakeBiEncoder) -> list[str]:
    return [text for batch in fake.batches for text in batch]


def test_scores_are_cosines_of_queries_and_documents(fake: FakeBiEncoder) -> None:
    encoder = BiEncoder(fake, prompts={"query": "ask ", "document": "told "})
    (answer,) = BiEncoderScorer(encoder).score_requests([ScoringRequest("rain", TEXTS)])
    expected = encoder.encode_document(TEXTS) @ encoder.encode_query(["rain"])[0]
    np.testing.assert_allclose(answer.scores, expected, atol=1e-6)
    assert answer.model == fake.identity
    assert answer.status == "complete"
    assert (answer.stats.pairs, answer.stats.documents, answer.stats.cache_hits) == (4, 5, 0)
    assert Reranker(BiEncoderScorer(encoder)).rank("hail", TEXTS)[0].index == 2


@pytest.mark.parametrize("scale", [1, 7.5])
@pytest.mark.parametrize("callable_", [False, True])
def test_only_texts_without_a_stored_embedding_are_embedded(
    fake: FakeBiEncoder, scale: float, callable_: bool
) -> None:
    encoder = BiEncoder(fake)
    plain = BiEncoderScorer(encoder).score_requests([ScoringRequest("rain", TEXTS)])[0]
    stored_texts = ["rain and sun", "sun", "never requested"]
    table = dict(
        zip(stored_texts, (scale * encoder.encode_document(stored_texts)).tolist(), strict=True)
    )
    fake.batches.clear()
    stored: Any = (lambda texts: [table.get(text) for text in texts]) if callable_ else table
    (answer,) = BiEncoderScorer(encoder, stored).score_requests([ScoringRequest("rain", TEXTS)])
    assert sorted(embedded(fake)) == ["", "hail", "rain"]
    np.testing.assert_allclose(answer.scores, plain.scores, atol=1e-6)
    assert answer.stats.cache_hits == 2
    assert answer.stats.tokens == 2 + 3 + 3


def test_texts_shared_by_requests_are_embedded_once_in_shared_batches(fake: FakeBiEncoder) -> None:
    requests = [
        ScoringRequest("rain", TEXTS),
        ScoringRequest("sun", ["sun", "fog"]),
        ScoringRequest("fog", ["hail"]),
    ]
    encoder = BiEncoder(fake)
    answers = BiEncoderScorer(encoder).score_requests(requests)
    assert len(fake.batches) == 1
    assert len(embedded(fake)) == 3 + 5
    for request, answer in zip(requests, answers, strict=True):
        separate = BiEncoderScorer(encoder).score_requests([request])[0]
        np.testing.assert_allclose(answer.scores, separate.scores, atol=1e-6)
        assert answer.stats == separate.stats
    assert BiEncoderScorer(encoder).score_requests([]) == []


async def test_async_lookups_run_in_another_thread(fake: FakeBiEncoder) -> None:
    threads = []

    def stored(texts: list[str]) -> list[Any]:
        threads.append(threading.current_thread())
        return [None] * len(texts)

    scorer = BiEncoderScorer(BiEncoder(fake), stored)
    (answer,) = await scorer.ascore_requests([ScoringRequest("rain", TEXTS)])
    assert threads[0] is not threading.main_thread()
    np.testing.assert_array_equal(
        answer.scores, scorer.score_requests([ScoringRequest("rain", TEXTS)])[0].scores
    )


def test_truncated_texts_are_reported(fake: FakeBiEncoder) -> None:
    encoder = BiEncoder(fake, max_length=16)
    texts = ["one " * 20, "one two", "four " * 20]
    stored = {texts[2]: encoder.encode_document(["four"])[0]}
    (answer,) = BiEncoderScorer(encoder, stored).score_requests([ScoringRequest("rain", texts)])
    assert answer.truncated.tolist() == [True, False, False]


def test_after_the_deadline_nothing_is_scored(fake: FakeBiEncoder) -> None:
    encoder = BiEncoder(fake)
    (answer,) = BiEncoderScorer(encoder).score_requests(
        [ScoringRequest("rain", TEXTS)], deadline=0.0
    )
    assert np.isnan(answer.scores).all()
    assert (answer.status, answer.stage.tolist()) == ("partial", [-1] * 5)


@pytest.mark.parametrize(
    "vector", [[1.0] * 63, [[1.0] * 64], [0.0] * 64, [float("nan")] * 64, [float("inf")] * 64]
)
def test_an_invalid_stored_embedding_is_refused(fake: FakeBiEncoder, vector: Any) -> None:
    scorer = BiEncoderScorer(BiEncoder(fake), {"sun": vector})
    with pytest.raises(InvalidInputError, match=r"stored for 'sun'.*\(64,\)"):
        scorer.score_requests([ScoringRequest("rain", TEXTS)])


def test_a_lookup_of_the_wrong_length_is_refused(fake: FakeBiEncoder) -> None:
    scorer = BiEncoderScorer(BiEncoder(fake), lambda texts: [None])
    with pytest.raises(InvalidInputError, match="1 embeddings for 4 texts"):
        scorer.score_requests([ScoringRequest("rain", TEXTS)])


def test_stored_must_be_a_mapping_or_callable(fake: FakeBiEncoder) -> None:
    with pytest.raises(ConfigurationError, match="stored is list"):
        BiEncoderScorer(BiEncoder(fake), [1])  # type: ignore[arg-type]


def test_an_embedding_that_is_not_finite_is_refused() -> None:
    class Broken(FakeBiEncoder):
        def run(self, batch: Any) -> Any:
            return super().run(batch) * np.float32("nan")

    broken = Broken()
    with pytest.raises(InvalidScoresError, match="not finite"):
        BiEncoderScorer(BiEncoder(broken)).score_requests([ScoringRequest("rain", TEXTS)])


def test_the_scorer_loads_and_closes_the_model(fake: FakeBiEncoder) -> None:
    scorer = BiEncoderScorer(BiEncoder(fake))
    scorer.warm_up()
    scorer.close()
    assert fake.closed
