"""Edge-case texts with the embedded model: correct scores, in bounded time."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rerank_plugins import Reranker

QUERY = "who wrote faust"
GOOD = "Goethe wrote the tragedy Faust."
BAD = "Rain is water that falls from clouds."

TIMEOUT_S = 30.0
"""A second or two are enough on an idle machine."""

THREADS = 8
CALLS = 50


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(dtype="float32", activation="none").warm_up()


def score(reranker: Reranker, document: str, query: str = QUERY) -> float:
    return float(reranker.score([(query, document)])[0])


def test_a_relevant_document_ranks_above_an_irrelevant_one(reranker: Reranker) -> None:
    ranking = reranker.rank(QUERY, [BAD, GOOD])
    assert [document.text for document in ranking] == [GOOD, BAD]
    assert ranking[0].raw_score - ranking[1].raw_score > 1


@pytest.mark.parametrize("empty", ["", " ", "\n\t\r ", "\u200b", "\x00"])
def test_an_empty_document_is_scored_below_a_good_one(reranker: Reranker, empty: str) -> None:
    ranking = reranker.rank(QUERY, [empty, GOOD])
    assert [document.text for document in ranking] == [GOOD, empty]
    assert not ranking[1].truncated
    assert ranking[1].raw_score == pytest.approx(score(reranker, ""), abs=1e-5)


@pytest.mark.parametrize(
    "unit", ["Goethe wrote Faust. ", "a", "\U0001f326 "], ids=["words", "a", "emoji"]
)
def test_a_million_characters_score_like_their_beginning(reranker: Reranker, unit: str) -> None:
    document = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    start = time.perf_counter()
    ranking = reranker.rank(QUERY, [document, BAD])
    assert time.perf_counter() - start < TIMEOUT_S
    long = next(document for document in ranking if document.index == 0)
    assert long.text == document
    assert long.raw_score == pytest.approx(score(reranker, document[:20_000]), abs=1e-5)
    assert long.truncated == (unit != "a"), "a word of a million letters is one unknown token"


def test_a_query_of_ten_thousand_words_is_truncated_to_half(reranker: Reranker) -> None:
    """Query and document get half of the maximum length each."""
    query = "who wrote the tragedy of faust " * 1_700
    start = time.perf_counter()
    ranking = reranker.rank(query, [BAD, GOOD])
    assert time.perf_counter() - start < TIMEOUT_S
    assert [document.text for document in ranking] == [GOOD, BAD]
    assert all(document.truncated for document in ranking)
    beginning = " ".join(query.split()[:2_000])
    assert ranking[0].raw_score == pytest.approx(score(reranker, GOOD, beginning), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "equivalent"),
    [
        ("Goethe \ud800wrote Faust", "Goethe \ufffdwrote Faust"),
        ("Goethe wrote Faust\udfff", "Goethe wrote Faust\ufffd"),
        ("\ud83c\udf27 rain", "\U0001f327 rain"),
        ("Goethe\x00 wrote Faust", "Goethe wrote Faust"),
    ],
    ids=["high surrogate", "low surrogate", "both surrogates", "NUL"],
)
def test_invalid_characters_score_like_replacement_characters(
    reranker: Reranker, text: str, equivalent: str
) -> None:
    assert score(reranker, text) == pytest.approx(score(reranker, equivalent), abs=1e-5)
    assert score(reranker, GOOD, text) == pytest.approx(score(reranker, GOOD, equivalent), abs=1e-5)
    assert reranker.rank(QUERY, [text])[0].text == text


@pytest.mark.parametrize(
    "text",
    [
        "🎭📚👩\u200d🔬",
        "גתה כתב את פאוסט",
        "\u202eflipped\u202c",
        "كتب غوته فاوست",
        "歌德写了浮士德",
        "e\u0301" * 50,
    ],
    ids=["emoji", "hebrew", "override", "arabic", "chinese", "combining"],
)
def test_other_scripts_have_finite_scores(reranker: Reranker, text: str) -> None:
    ranking = reranker.rank(QUERY, [text, GOOD, text])
    assert np.isfinite([document.raw_score for document in ranking]).all()
    assert ranking[0].text == GOOD
    assert [document.index for document in ranking] == [1, 0, 2]
    assert np.isfinite(score(reranker, GOOD, text))


def test_all_unicode_blocks_have_finite_scores(reranker: Reranker) -> None:
    """Samples of all Unicode blocks, lone surrogates included."""
    step = 256
    blocks = [
        " ".join(map(chr, range(start, start + step, 16)))
        for start in range(0, sys.maxunicode, step * 64)
    ]
    scores = reranker.score([(QUERY, block) for block in blocks])
    assert np.isfinite(scores).all()


def test_threads_with_different_max_lengths_do_not_interfere() -> None:
    """A tokenizer shared by threads mixes up their truncation (transformers#47085)."""
    documents = [f"{GOOD} {number} " * 6 for number in range(2)]
    rerankers = [
        Reranker(dtype="float32", max_length=length, activation="none") for length in (16, 24)
    ]
    expected = [reranker.rank(QUERY, documents) for reranker in rerankers]
    assert expected[0][0].raw_score != expected[1][0].raw_score
    assert [ranking.stats.tokens for ranking in expected] == [2 * 16, 2 * 24]

    def work(thread: int) -> int:
        wrong = 0
        for call in range(CALLS):
            index = (thread + call) % 2
            ranking = rerankers[index].rank(QUERY, documents)
            close = np.allclose(
                [document.raw_score for document in ranking],
                [document.raw_score for document in expected[index]],
                rtol=0,
                atol=1e-5,
            )
            wrong += not close or ranking.stats != expected[index].stats
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 0
