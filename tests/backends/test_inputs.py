"""Hard texts through the real embedded model: a right score, never a hang."""

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

PATIENCE = 30.0
"""Seconds; a second or two on an idle machine."""

THREADS = 8
CALLS = 50


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(dtype="float32").warm_up()


def score(reranker: Reranker, document: str, query: str = QUERY) -> float:
    return float(reranker.score([(query, document)])[0])


def test_the_model_knows_good_from_bad(reranker: Reranker) -> None:
    ranking = reranker.rank(QUERY, [BAD, GOOD])
    assert [one.text for one in ranking] == [GOOD, BAD]
    assert ranking[0].raw_score - ranking[1].raw_score > 1


@pytest.mark.parametrize("empty", ["", " ", "\n\t\r ", "\u200b", "\x00"])
def test_an_empty_document_is_scored_below_a_good_one(reranker: Reranker, empty: str) -> None:
    ranking = reranker.rank(QUERY, [empty, GOOD])
    assert [one.text for one in ranking] == [GOOD, empty]
    assert not ranking[1].truncated
    assert ranking[1].raw_score == pytest.approx(score(reranker, ""), abs=1e-5)


@pytest.mark.parametrize(
    "unit", ["Goethe wrote Faust. ", "a", "\U0001f326 "], ids=["words", "a", "emoji"]
)
def test_a_million_characters_score_as_their_beginning(reranker: Reranker, unit: str) -> None:
    document = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    start = time.perf_counter()
    ranking = reranker.rank(QUERY, [document, BAD])
    assert time.perf_counter() - start < PATIENCE
    long = next(one for one in ranking if one.index == 0)
    assert long.text == document
    assert long.raw_score == pytest.approx(score(reranker, document[:20_000]), abs=1e-5)
    assert long.truncated == (unit != "a"), "a word of a million letters is one unknown token"


def test_a_query_of_ten_thousand_words(reranker: Reranker) -> None:
    """The query keeps half of the maximum length, and the document the other half."""
    query = "who wrote the tragedy of faust " * 1_700
    start = time.perf_counter()
    ranking = reranker.rank(query, [BAD, GOOD])
    assert time.perf_counter() - start < PATIENCE
    assert [one.text for one in ranking] == [GOOD, BAD]
    assert all(one.truncated for one in ranking)
    beginning = " ".join(query.split()[:2_000])
    assert ranking[0].raw_score == pytest.approx(score(reranker, GOOD, beginning), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Goethe \ud800wrote Faust", "Goethe \ufffdwrote Faust"),
        ("Goethe wrote Faust\udfff", "Goethe wrote Faust\ufffd"),
        ("\ud83c\udf27 rain", "\U0001f327 rain"),
        ("Goethe\x00 wrote Faust", "Goethe wrote Faust"),
    ],
    ids=["high half", "low half", "both halves", "NUL"],
)
def test_broken_text_reads_as_its_whole_part(reranker: Reranker, text: str, same: str) -> None:
    assert score(reranker, text) == pytest.approx(score(reranker, same), abs=1e-5)
    assert score(reranker, GOOD, text) == pytest.approx(score(reranker, GOOD, same), abs=1e-5)
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
def test_other_scripts_have_finite_scores_of_their_own(reranker: Reranker, text: str) -> None:
    ranking = reranker.rank(QUERY, [text, GOOD, text])
    assert np.isfinite([one.raw_score for one in ranking]).all()
    assert ranking[0].text == GOOD
    assert [one.index for one in ranking] == [1, 0, 2]
    assert np.isfinite(score(reranker, GOOD, text))


def test_every_code_point_can_be_read(reranker: Reranker) -> None:
    """Blocks of all of Unicode, lone surrogates included."""
    step = 256
    blocks = [
        " ".join(map(chr, range(start, start + step, 16)))
        for start in range(0, sys.maxunicode, step * 64)
    ]
    scores = reranker.score([(QUERY, block) for block in blocks])
    assert np.isfinite(scores).all()


def test_threads_with_different_lengths_do_not_disturb_each_other() -> None:
    """A tokenizer shared by threads gave each the other's truncation (transformers#47085)."""
    documents = [f"{GOOD} {number} " * 6 for number in range(2)]
    rerankers = [Reranker(dtype="float32", max_length=length) for length in (16, 24)]
    expected = [one.rank(QUERY, documents) for one in rerankers]
    assert expected[0][0].raw_score != expected[1][0].raw_score
    assert [one.stats.tokens for one in expected] == [2 * 16, 2 * 24]

    def work(thread: int) -> int:
        wrong = 0
        for call in range(CALLS):
            which = (thread + call) % 2
            ranking = rerankers[which].rank(QUERY, documents)
            close = np.allclose(
                [one.raw_score for one in ranking],
                [one.raw_score for one in expected[which]],
                rtol=0,
                atol=1e-5,
            )
            wrong += not close or ranking.stats != expected[which].stats
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 0
