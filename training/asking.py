"""The queries of each kind of list, before candidates are found for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.prepared import Parts, Prepared, Question
from training.settings import Kind, Mine, Settings
from training.wording import Rng, careless, casual, keywords, phrase


class Asked(NamedTuple):
    """A query of a list.

    Attributes:
        text: What the cross-encoder reads.
        clean: What the bi-encoder reads.
        source: The file that it comes from.
        own: Texts of the space that belong to it, the relevant ones of a list with labels.
        given: Texts of the space that are known not to be relevant, or stand near it.
        banned: Passages whose other texts are no candidates.
        held_out: Whether it is for validation.
    """

    text: str
    clean: str
    source: str
    own: tuple[int, ...]
    given: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    held_out: bool = False


NEIGHBOURS = 4
"""So many passages before and after one are mostly of the same article."""


def sampled(prepared: Prepared, settings: Settings, kind: Kind, rng: Rng) -> list[Question]:
    """Draw as many questions of each source as the configuration wants, or all."""
    chosen: list[Question] = []
    for name, source in settings.sources.items():
        own = [one for one in prepared.questions if one.source == name]
        count = min(source.lists.get(kind, 0), len(own))
        chosen += [own[at] for at in rng.permutation(len(own))[:count].tolist()]
    return chosen


def worded(question: str, settings: Mine, rng: Rng) -> str:
    """Ask in one of the ways that people do."""
    drawn = rng.random()
    if drawn < settings.keywords:
        return keywords(question)
    return casual(question) if drawn < settings.keywords + settings.casual else question


def ask_windows(
    prepared: Prepared,
    questions: Sequence[Question],
    answers: Sequence[int],
    settings: Mine,
    *,
    rng: Rng,
    held_out: bool = False,
) -> list[Asked]:
    """Ask questions of windows.

    Args:
        prepared: The texts.
        questions: What is asked.
        answers: The window that answers each.
        settings: The configuration's part.
        rng: Draws the wording, which is the original one in validation.
        held_out: Whether it is for validation.
    """
    asked = []
    for one, answer in zip(questions, answers, strict=True):
        text = one.text if held_out else worded(one.text, settings, rng)
        given = tuple(at for passage in one.given for at in prepared.windows.of(passage))
        banned = tuple(one.positives)
        asked.append(Asked(text, one.text, one.source, (answer,), given, banned, held_out))
    return asked


def ask_sentences(sentences: Parts, questions: Sequence[Question], rng: Rng) -> list[Asked]:
    """Ask questions of the sentences of their passages."""
    asked = []
    for one in questions:
        own = [at for passage in one.positives for at in sentences.of(passage)]
        if own:
            mixed = tuple(rng.permutation(own).tolist())
            asked.append(Asked(one.text, one.text, one.source, mixed))
    return asked


def ask_again(
    questions: Sequence[Question], rng: Rng, start: int, *, unseen: float, held_out: bool
) -> list[Asked]:
    """Ask questions carelessly of a space that has each of them, from a position on.

    Args:
        questions: What is asked.
        rng: Draws the wording.
        start: Place of the first in the space.
        unseen: Share that must do without itself among the candidates: what is nearest then
            asks something like it in other words.
        held_out: Whether it is for validation.
    """
    asked = []
    for place, one in enumerate(questions, start):
        alone = bool(rng.random() < unseen)
        own, banned = ((), (place,)) if alone else ((place,), ())
        text = careless(one.text, rng)
        asked.append(Asked(text, one.text, one.source, own, banned=banned, held_out=held_out))
    return asked


def ask_of_passages(prepared: Prepared, settings: Settings, kind: Kind, rng: Rng) -> list[Asked]:
    """Make queries out of passages: a sentence of a window, or a phrase."""
    asked: list[Asked] = []
    sources = np.array(prepared.sources)
    free = ~prepared.held_out[prepared.windows.passages]
    for name, source in settings.sources.items():
        own = np.flatnonzero((sources[prepared.windows.passages] == name) & free)
        made = (
            _of_window(prepared, int(at), name, kind, rng)
            for at in own[rng.permutation(len(own))].tolist()
        )
        wanted = source.lists.get(kind, 0)
        for one in made:
            if wanted <= 0:
                break
            if one is not None:
                asked.append(one)
                wanted -= 1
    return asked


def _of_window(prepared: Prepared, window: int, source: str, kind: Kind, rng: Rng) -> Asked | None:
    text, passage = prepared.windows.texts[window], int(prepared.windows.passages[window])
    if kind == "phrase":
        query = phrase(text, rng)
    else:
        inside = [
            sentence
            for sentence in (prepared.sentences.texts[at] for at in prepared.sentences.of(passage))
            if sentence in text and len(sentence) < len(text) / 2
        ]
        query = str(rng.choice(inside)) if inside else ""
    if not query:
        return None
    near = [
        at
        for other in range(passage - NEIGHBOURS, passage + NEIGHBOURS + 1)
        if other != passage
        for at in prepared.windows.of(other)
        if not prepared.held_out[other]
    ]
    return Asked(query, query, source, (window,), tuple(near), (passage,))
