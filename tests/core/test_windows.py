"""Windows of long documents: coverage, size and boundaries."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rerank_plugins import RankedDocument, Ranking, Reranker, Windows
from rerank_plugins.core.windows import Spans, estimated_spans, split, subsample
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import Window
from tests.helpers.strategies import any_text, documents, queries, words

SENTENCES = "One two three. Four five six seven. Eight nine ten. Eleven twelve."
long_words = st.lists(
    st.sampled_from(["rain", "sun.", "wind", "snow!", "fog", "\n", "雨。", "雪"]), max_size=80
).map(" ".join)


def word_spans(text: str) -> Spans:
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    return np.array(spans, dtype=np.int64).reshape(len(spans), 2)


def tokens_in(window: Window, spans: Spans) -> int:
    return int(((spans[:, 0] >= window.start) & (spans[:, 1] <= window.end)).sum())


@given(long_words | any_text, st.integers(1, 20), st.integers(0, 30))
def test_windows_cover_the_text_and_fit_the_model(text: str, room: int, overlap: int) -> None:
    for spans in (word_spans(text), estimated_spans(text)):
        windows = split(text, spans, room, overlap)
        assert windows[0].start == 0
        assert windows[-1].end == len(text)
        for window, following in itertools.pairwise(windows):
            assert window.start < following.start <= window.end
            assert window.end < following.end
        assert all(tokens_in(window, spans) <= room for window in windows)
        assert (len(windows) == 1) == (len(spans) <= room)


def test_windows_end_at_sentences_and_overlap() -> None:
    windows = split(SENTENCES, word_spans(SENTENCES), 8, 4)
    parts = [SENTENCES[window.start : window.end].strip() for window in windows]
    assert parts == [
        "One two three. Four five six seven.",
        "Four five six seven. Eight nine ten.",
        "Eight nine ten. Eleven twelve.",
    ]


def test_without_sentences_windows_end_at_words() -> None:
    text = "abcdefgh " * 10
    pieces = estimated_spans(text)
    for window in split(text, pieces, 5, 0):
        assert re.fullmatch(r"(abcdefgh )+", text[window.start : window.end])


def test_a_word_longer_than_a_window_is_split() -> None:
    text = "x" * 40
    windows = split(text, estimated_spans(text), 4, 1)
    assert len(windows) > 2
    assert all(0 < window.end - window.start <= 16 for window in windows)


def test_estimated_spans_count_letters_and_characters_without_spaces() -> None:
    assert len(estimated_spans("internationalization")) == 5
    assert len(estimated_spans("谁写了浮士德")) == 6
    assert len(estimated_spans(" \n")) == 0


@given(st.integers(1, 30), st.integers(1, 30))
def test_subsampling_keeps_the_first_and_last_window(count: int, max_windows: int) -> None:
    windows = [Window(start, start + 1) for start in range(count)]
    kept = subsample(windows, max_windows)
    assert len(kept) == min(count, max_windows)
    assert kept == sorted(set(kept))
    assert kept[0] == windows[0]
    assert max_windows == 1 or kept[-1] == windows[-1]
    assert subsample(windows, None) == windows


@given(words.filter(bool) | queries, documents, st.integers(9, 40), st.sampled_from(["", "see: "]))
@example("rain", ["snow " * 15], 19, "")  # fits exactly
@example("rain", ["snow " * 14], 19, "see: ")
def test_windows_equal_truncation_for_short_documents(
    query: str, texts: list[str], max_length: int, prompt: str
) -> None:
    truncating, windows = (
        Reranker(
            FakeCrossEncoder(max_length=max_length),
            long_documents=mode,
            prompts={"document": prompt},
        )
        for mode in ("truncate", "windows")
    )
    expected = truncating.rank(query, texts)
    fits = [text for text, document in by_text(expected).items() if not document.truncated]
    assert windows.rank(query, fits) == truncating.rank(query, fits)
    assert all(window.window is None for window in windows.rank(query, fits))


def by_text(ranking: Ranking) -> dict[str, RankedDocument]:
    return {document.text: document for document in ranking}


@pytest.mark.parametrize("words", range(52, 64))
def test_a_document_that_fits_the_model_is_not_split(words: int) -> None:
    """Covers lengths around the maximum, one token at a time."""
    text = "rain " * words
    settings: dict[str, Any] = {"dtype": "float32", "max_length": 64}
    truncating = Reranker(**settings).rank("What is rain?", [text])
    windowing = Reranker(**settings, long_documents="windows").rank("What is rain?", [text])
    assert (windowing[0].window is None) == (truncating.stats.truncated == 0)
    assert truncating.stats.truncated == 1 or windowing == truncating


def windowed(**settings: Any) -> Reranker:
    return Reranker(
        FakeCrossEncoder(max_length=16),
        max_length=None,
        long_documents=Windows(overlap=0, **settings),
    )


HAYSTACK = "sun " * 30 + "needle rain " + "sun " * 30


def test_the_best_window_sets_the_score_and_is_returned() -> None:
    ranking = windowed().rank("needle rain", ["rain", HAYSTACK])
    best = ranking[0]
    assert best.index == 1
    assert best.window is not None
    part = best.text[best.window.start : best.window.end]
    assert "needle rain" in part
    assert not best.truncated
    assert best.raw_score == pytest.approx(FakeCrossEncoder()._score("needle rain", part))
    assert ranking[1].window is None
    assert ranking.stats.pairs > 2
    assert ranking.stats.truncated == 0
    whole = Reranker(FakeCrossEncoder(max_length=16)).rank("needle rain", ["rain", HAYSTACK])
    assert whole.stats.truncated == 1


def test_the_score_is_the_mean_of_the_top_k_windows() -> None:
    backend = FakeCrossEncoder(max_length=16)
    reranker = Reranker(backend, max_length=None, long_documents=Windows(overlap=0, top_k=2))
    score = reranker.rank("needle rain", [HAYSTACK])[0].raw_score
    scored = sorted((backend._score(*pair) for pair in backend.batches[0]), reverse=True)
    assert score == pytest.approx(sum(scored[:2]) / 2, abs=1e-6)


def test_omitted_windows_are_reported_as_truncation() -> None:
    ranking = windowed(max_windows=2).rank("needle rain", [HAYSTACK])
    assert ranking.stats.pairs == 2
    assert ranking[0].truncated
    assert ranking.stats.truncated == 1


def test_equal_windows_are_scored_once() -> None:
    ranking = windowed().rank("rain", ["sun " * 60, "sun " * 60])
    assert ranking.stats.pairs < len(range(0, 120, 10))
    assert ranking[0].raw_score == ranking[1].raw_score


async def test_async_windows_equal_sync() -> None:
    expected = windowed().rank("needle rain", ["rain", HAYSTACK])
    assert await windowed().arank("needle rain", ["rain", HAYSTACK]) == expected


def test_windows_find_a_fact_beyond_max_length() -> None:
    filler = "The harbour was quiet and the boats lay still in the gray morning light. " * 60
    texts = [filler + "Goethe wrote Faust, a tragedy in two parts. " + filler, filler]
    ranking = Reranker(long_documents="windows", max_length=128).rank("Who wrote Faust?", texts)
    best = ranking[0]
    assert best.index == 0
    assert best.window is not None
    assert "Goethe wrote Faust" in texts[0][best.window.start : best.window.end]
    assert not best.truncated
    assert best.raw_score > ranking[1].raw_score + 1
