"""Multilingual texts: scripts without spaces, right-to-left scripts and mixed languages."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerank_plugins import Reranker, Windows
from rerank_plugins.core.windows import WindowSplitter, estimated_spans, split
from rerank_plugins.types import TextPair
from tests.helpers.tiny_decoders import save_logit_score
from tests.helpers.tiny_models import save_reranker

CHINESE = "北京是中华人民共和国的首都。长城位于北京以北。故宫建于明朝。"
THAI = "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทยและมีแม่น้ำเจ้าพระยาไหลผ่าน"
ARABIC = "القاهرة هي عاصمة مصر. يقع نهر النيل في القاهرة. بنيت الأهرامات قديما."
HINDI = "नई दिल्ली भारत की राजधानी है। गंगा एक नदी है।"
RUSSIAN = "Москва — столица России. Через город течёт Москва-река."
JAPANESE = "東京は日本の首都です。富士山は高い山です。"
TEXTS = (CHINESE, THAI, ARABIC, HINDI, RUSSIAN, JAPANESE)


@pytest.fixture(scope="module", params=["roberta", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder_path = tmp_path_factory.mktemp("multilingual")
    if request.param == "qwen3":
        return save_logit_score("qwen3", folder_path)
    return save_reranker(request.param, folder_path)


@pytest.mark.parametrize("text", TEXTS)
def test_windows_fit_by_tokens_and_cover_the_text(folder: Path, text: str) -> None:
    reranker = Reranker(
        folder,
        dtype="float32",
        max_length=160,
        long_documents=Windows(overlap=16, max_windows=None),
    )
    long = text * 30
    backend: Any = reranker.engine.backend
    splitter = WindowSplitter(backend, 160, 16, "")
    (windows,) = splitter("what is the capital", [long])
    assert len(windows) > 1
    assert windows[0].start == 0
    assert windows[-1].end == len(long)
    assert all(after.start <= before.end for before, after in pairwise(windows))
    parts = [("what is the capital", long[window.start : window.end]) for window in windows]
    prepared = backend.prepare([TextPair(*part) for part in parts], 160)
    assert not any(document.truncated for document in prepared)
    ranking = reranker.rank("what is the capital", [long])
    assert not ranking[0].truncated
    assert ranking[0].window in windows


def test_a_query_in_a_different_language_than_its_documents(folder: Path) -> None:
    """A pair's score does not depend on the languages of other pairs in the batch."""
    reranker = Reranker(folder, dtype="float32")
    together = reranker.rank(ARABIC, TEXTS)
    separate = [reranker.rank(ARABIC, [text])[0].raw_score for text in TEXTS]
    scores = {document.index: document.raw_score for document in together}
    np.testing.assert_allclose([scores[row] for row in range(len(TEXTS))], separate, atol=2e-5)


def test_long_queries_are_truncated_by_tokens(folder: Path) -> None:
    backend: Any = Reranker(folder, dtype="float32").engine.backend
    for text in TEXTS:
        first, second = backend.prepare(
            [TextPair(text * 40, "a"), TextPair(text * 40, "b c d")], 200
        )
        assert first.truncated
        assert max(first.tokens, second.tokens) <= 200
        assert first.payload.ids.tolist() != second.payload.ids.tolist()


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, HINDI])
def test_windows_end_at_sentence_ends_of_each_script(text: str) -> None:
    long = text * 20
    spans = estimated_spans(long)
    windows = split(long, spans, 60, 8)
    ends = [long[: window.end].rstrip()[-1] for window in windows[:-1]]
    assert sum(end in "。！？।" for end in ends) > len(ends) // 2  # noqa: RUF001


def test_window_boundaries_split_no_character(folder: Path) -> None:
    """All byte-level tokens of a character have the same offsets, so windows never split it."""
    reranker = Reranker(folder, dtype="float32", max_length=160)
    splitter = WindowSplitter(reranker.engine.backend, 160, 8, "")
    for text in ("👩‍👩‍👧 雨 " * 60, THAI * 20):
        (windows,) = splitter("rain", [text])
        whole = "".join(text[before.start : after.start] for before, after in pairwise(windows))
        assert whole + text[windows[-1].start :] == text
