"""Step ``mine``: candidates for every query, and the bi-encoder's cosines as soft targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from rerank_plugins import BiEncoder, Cache, Reranker
from rerank_plugins.config import MINI
from training.answer_windows import answer_windows
from training.augmentation import Rng, without_punctuation
from training.candidates import CandidatePool, draw_candidates
from training.corpus import Chunks, Corpus, Question
from training.dataset import KINDS, Dataset, DatasetWriter
from training.query_generation import (
    ListQuery,
    passage_queries,
    question_queries,
    sample_questions,
    sentence_queries,
    window_queries,
)
from training.settings import Kind, Settings

_LABELED: Final = frozenset[Kind]({"window", "passage", "paragraph"})
_SENTENCE_REMOVED: Final = 0.7
"""Fraction of ``paragraph`` positives from which the query's sentence is removed."""

Render = Callable[[ListQuery, int], tuple[str, list[int]]]
"""From a query and a candidate to the candidate's text and the texts of the pool whose highest
cosine is its soft target."""


class _Lists(NamedTuple):
    """Lists of a kind before candidates are drawn."""

    pool: CandidatePool
    queries: list[ListQuery]
    render: Render


def bi_encoder(vectors: Path | None = None) -> BiEncoder:
    """Return all-MiniLM-L6-v2; ``vectors`` is a folder that caches its vectors."""
    cache = None if vectors is None else Cache(folder=vectors)
    return BiEncoder(MINI, **_fastest_backend(), cache=cache)


def cross_encoder() -> Reranker:
    """Return the embedded cross-encoder."""
    return Reranker(MINI, **_fastest_backend())


def _fastest_backend() -> dict[str, Any]:
    """Return the settings of a backend: int8 on a CPU if OpenVINO is installed."""
    if torch.cuda.is_available() or find_spec("openvino") is None or find_spec("nncf") is None:
        return {}
    return {"backend": "openvino", "dtype": "int8"}


class Miner:
    """Makes the lists of all kinds."""

    def __init__(
        self, corpus: Corpus, settings: Settings, encoder: BiEncoder, reader: Reranker
    ) -> None:
        """Embed the windows.

        Args:
            corpus: The corpus.
            settings: The configuration.
            encoder: Bi-encoder whose cosines are the soft targets.
            reader: Cross-encoder that finds the window that answers a question.
        """
        self._corpus = corpus
        self._settings = settings
        self._encoder = encoder
        self._reader = reader
        self._windows = self._chunk_pool(corpus.windows)

    def dataset(self) -> Dataset:
        """Make all lists."""
        writer = DatasetWriter(list(self._settings.sources), self._settings.train.max_length)
        for number, kind in enumerate(KINDS):
            rng = np.random.default_rng([self._settings.seed, len(KINDS), number])
            lists = self._lists(kind, rng)
            if lists.queries:
                self._write(kind, lists, rng, writer)
        return writer.dataset()

    def _lists(self, kind: Kind, rng: Rng) -> _Lists:
        corpus, settings = self._corpus, self._settings
        if kind in ("paragraph", "phrase"):
            render = (
                self._render_without_sentence(rng)
                if kind == "paragraph"
                else self._render_without_punctuation(rng)
            )
            return _Lists(self._windows, passage_queries(corpus, settings, kind, rng), render)
        questions = sample_questions(corpus, settings, kind, rng)
        if kind == "sentence" and questions:
            passages = (passage for question in questions for passage in question.positives)
            sentences = corpus.sentences.select(passages)
            pool = self._chunk_pool(sentences)
            return _Lists(pool, sentence_queries(sentences, questions, rng), _render_as_is(pool))
        held_out = corpus.validation if kind in ("window", "faq") else []
        if kind in ("faq", "question"):
            return self._question_lists(questions, held_out, kind, rng)
        answers = self._answers([*questions, *held_out])
        training = len(questions)
        queries = window_queries(corpus, questions, answers[:training], settings.mine, rng=rng)
        queries += window_queries(
            corpus, held_out, answers[training:], settings.mine, rng=rng, held_out=True
        )
        render = self._render_passage if kind == "passage" else _render_as_is(self._windows)
        return _Lists(self._windows, queries, render)

    def _question_lists(
        self, questions: Sequence[Question], held_out: Sequence[Question], kind: Kind, rng: Rng
    ) -> _Lists:
        """Return lists whose candidates are questions, with their answers for ``faq``."""
        training = len(questions)
        pool = self._question_pool([*questions, *held_out], kind, training, rng)
        fraction = self._settings.mine.without_self_fraction
        queries = question_queries(
            questions, rng, 0, without_self_fraction=fraction, held_out=False
        )
        queries += question_queries(held_out, rng, training, without_self_fraction=0, held_out=True)
        return _Lists(pool, queries, _render_as_is(pool))

    def _write(self, kind: Kind, lists: _Lists, rng: Rng, writer: DatasetWriter) -> None:
        settings = self._settings.mine
        for held_out in (False, True):
            queries = [query for query in lists.queries if query.held_out is held_out]
            if not queries:
                continue
            pool = lists.pool
            if held_out:
                pool = replace(pool, allowed=np.ones_like(pool.allowed))
            vectors = self._encoder.encode_query([query.clean_text for query in queries])
            dense = pool.dense_search(vectors, settings.dense_depth)
            lexical = pool.lexical_search([query.text for query in queries], settings.lexical_depth)
            for row, query in enumerate(tqdm(queries, desc=kind, unit="list", disable=None)):
                candidates = draw_candidates(
                    query, pool, dense[row], lexical[row], settings=settings, rng=rng
                )
                if len(candidates) < settings.list_size:
                    continue
                rendered = [lists.render(query, candidate) for candidate in candidates]
                cosines = [(pool.vectors[texts] @ vectors[row]).max() for _, texts in rendered]
                writer.add(
                    kind,
                    query.source,
                    query.text,
                    [text for text, _ in rendered],
                    np.array(cosines, dtype=np.float32),
                    relevant=1 if kind in _LABELED else 0,
                    held_out=held_out,
                )

    def _answers(self, questions: Sequence[Question], *, use_reader: bool = True) -> list[int]:
        reader = self._reader if use_reader else None
        windows, vectors = self._corpus.windows, self._windows.vectors
        return answer_windows(questions, windows, vectors, self._encoder, reader)

    def _chunk_pool(self, chunks: Chunks) -> CandidatePool:
        vectors = self._encoder.encode_document(chunks.texts)
        allowed = ~self._corpus.held_out[chunks.passages]
        return CandidatePool(chunks.texts, chunks.passages, vectors, allowed)

    def _question_pool(
        self, questions: Sequence[Question], kind: Kind, allowed: int, rng: Rng
    ) -> CandidatePool:
        texts = [question.text for question in questions]
        if kind == "faq":
            windows = self._corpus.windows.texts
            shortest, longest = self._settings.mine.answer_words
            for row, answer in enumerate(self._answers(questions, use_reader=False)):
                words = windows[answer].split()[: rng.integers(shortest, longest + 1)]
                texts[row] += "\n" + " ".join(words)
        # Each question counts as a passage: several questions of a passage may be in a list.
        numbers = np.arange(len(texts), dtype=np.int64)
        vectors = self._encoder.encode_document(texts)
        return CandidatePool(texts, numbers, vectors, numbers < allowed)

    def _render_passage(self, _: ListQuery, window: int) -> tuple[str, list[int]]:
        """Return the whole passage of a window, or the window if the passage is too long."""
        passage = int(self._windows.passages[window])
        text = self._corpus.passages[passage]
        if len(text.split()) > self._settings.prepare.max_passage_words:
            return self._windows.texts[window], [window]
        return text, self._corpus.windows.of(passage)

    def _render_without_sentence(self, rng: Rng) -> Render:
        """Return a function that removes the query's sentence from most of the positives."""

        def render(query: ListQuery, window: int) -> tuple[str, list[int]]:
            text = self._windows.texts[window]
            if window in query.positives and rng.random() < _SENTENCE_REMOVED:
                text = " ".join(text.replace(query.text, " ").split())
            return text, [window]

        return render

    def _render_without_punctuation(self, rng: Rng) -> Render:
        """Return a function that removes punctuation from all candidates of some queries."""
        fraction = self._settings.mine.unpunctuated_fraction
        unpunctuated: dict[str, bool] = {}

        def render(query: ListQuery, window: int) -> tuple[str, list[int]]:
            text = self._windows.texts[window]
            if unpunctuated.setdefault(query.text, bool(rng.random() < fraction)):
                text = without_punctuation(text)
            return text, [window]

        return render


def _render_as_is(pool: CandidatePool) -> Render:
    return lambda _, row: (pool.texts[row], [row])
