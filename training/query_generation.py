"""Queries of each kind of list, before candidates are chosen for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from training.augmentation import Rng, careless, casual, keywords, phrase
from training.corpus import Chunks, Corpus, Question
from training.settings import Kind, MineSettings, Settings

_NEIGHBORS: Final = 4
"""Number of passages before and after one that are mostly from the same article."""


class ListQuery(NamedTuple):
    """Query of a list; texts are positions in the pool of candidates.

    Attributes:
        text: Query that the cross-encoder reads.
        clean_text: Query that the bi-encoder reads, without augmentation.
        source: Name of the file that it is from.
        positives: Texts that belong to it; in a labeled list, the relevant ones.
        negatives: Texts that are known not to be relevant, or are close to the positives.
        excluded: Passages of which no other text may be a candidate.
        held_out: Whether the list is for validation.
    """

    text: str
    clean_text: str
    source: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    excluded: tuple[int, ...] = ()
    held_out: bool = False


def sample_questions(corpus: Corpus, settings: Settings, kind: Kind, rng: Rng) -> list[Question]:
    """Draw the configured number of questions of each source, or all if there are fewer."""
    sample: list[Question] = []
    for name, source in settings.sources.items():
        questions = [question for question in corpus.questions if question.source == name]
        count = min(source.lists.get(kind, 0), len(questions))
        sample += [questions[row] for row in rng.permutation(len(questions))[:count].tolist()]
    return sample


def window_queries(
    corpus: Corpus,
    questions: Sequence[Question],
    answers: Sequence[int],
    settings: MineSettings,
    *,
    rng: Rng,
    held_out: bool = False,
) -> list[ListQuery]:
    """Return queries for windows.

    Args:
        corpus: The corpus.
        questions: Questions to use.
        answers: Window that answers each question.
        settings: The configuration of mining.
        rng: Draws the augmentation.
        held_out: Whether the lists are for validation, where questions are not augmented.
    """
    queries = []
    for question, answer in zip(questions, answers, strict=True):
        text = question.text if held_out else _augmented(question.text, settings, rng)
        negatives = tuple(
            window for passage in question.negatives for window in corpus.windows.of(passage)
        )
        query = ListQuery(
            text,
            question.text,
            question.source,
            positives=(answer,),
            negatives=negatives,
            excluded=tuple(question.positives),
            held_out=held_out,
        )
        queries.append(query)
    return queries


def sentence_queries(sentences: Chunks, questions: Sequence[Question], rng: Rng) -> list[ListQuery]:
    """Return queries for sentences, the positives being those of the answering passages."""
    queries = []
    for question in questions:
        positives = [row for passage in question.positives for row in sentences.of(passage)]
        if positives:
            shuffled = tuple(rng.permutation(positives).tolist())
            queries.append(ListQuery(question.text, question.text, question.source, shuffled))
    return queries


def question_queries(
    questions: Sequence[Question],
    rng: Rng,
    start: int,
    *,
    without_self_fraction: float,
    held_out: bool,
) -> list[ListQuery]:
    """Return carelessly typed queries for a pool that contains the same questions.

    Args:
        questions: Questions to use.
        rng: Draws the augmentation.
        start: Position of the first question in the pool.
        without_self_fraction: Fraction of queries whose own question is excluded from the
            candidates, so that the nearest candidate asks something similar in other words.
        held_out: Whether the lists are for validation.
    """
    queries = []
    for position, question in enumerate(questions, start):
        without_self = bool(rng.random() < without_self_fraction)
        query = ListQuery(
            careless(question.text, rng),
            question.text,
            question.source,
            positives=() if without_self else (position,),
            excluded=(position,) if without_self else (),
            held_out=held_out,
        )
        queries.append(query)
    return queries


def passage_queries(corpus: Corpus, settings: Settings, kind: Kind, rng: Rng) -> list[ListQuery]:
    """Return queries taken from windows: a sentence for ``paragraph``, a phrase for ``phrase``."""
    queries: list[ListQuery] = []
    sources = np.array(corpus.sources)
    trained_on = ~corpus.held_out[corpus.windows.passages]
    for name, source in settings.sources.items():
        windows = np.flatnonzero((sources[corpus.windows.passages] == name) & trained_on)
        candidates = (
            _window_query(corpus, int(window), name, kind, rng)
            for window in windows[rng.permutation(len(windows))].tolist()
        )
        missing = source.lists.get(kind, 0)
        for query in candidates:
            if missing <= 0:
                break
            if query is not None:
                queries.append(query)
                missing -= 1
    return queries


def _augmented(question: str, settings: MineSettings, rng: Rng) -> str:
    draw = rng.random()
    if draw < settings.keyword_fraction:
        return keywords(question)
    if draw < settings.keyword_fraction + settings.lowercase_fraction:
        return casual(question)
    return question


def _window_query(
    corpus: Corpus, window: int, source: str, kind: Kind, rng: Rng
) -> ListQuery | None:
    text, passage = corpus.windows.texts[window], int(corpus.windows.passages[window])
    query = phrase(text, rng) if kind == "phrase" else _sentence_of(corpus, window, rng)
    if not query:
        return None
    neighbors = [
        row
        for other in range(passage - _NEIGHBORS, passage + _NEIGHBORS + 1)
        if other != passage
        for row in corpus.windows.of(other)
        if not corpus.held_out[other]
    ]
    return ListQuery(query, query, source, (window,), tuple(neighbors), (passage,))


def _sentence_of(corpus: Corpus, window: int, rng: Rng) -> str:
    """Draw a sentence of a window that is less than half of it; "" if there is none."""
    text, passage = corpus.windows.texts[window], int(corpus.windows.passages[window])
    sentences = [
        sentence
        for sentence in (corpus.sentences.texts[row] for row in corpus.sentences.of(passage))
        if sentence in text and len(sentence) < len(text) / 2
    ]
    return str(rng.choice(sentences)) if sentences else ""
