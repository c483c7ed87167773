"""First step: choose passages, hold some out, cut all into windows and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rerank_plugins.errors import InvalidInputError
from training.cutting import sentences_of, windows_of
from training.groups import Group, read_groups
from training.prepared import Parts, Prepared, Question
from training.settings import Settings, Source


class _Taken(NamedTuple):
    """What is used of a file: passages in its order, questions, and those for validation."""

    passages: list[str]
    groups: list[Group]
    held_out: list[Group]


def prepare(folders: Sequence[Path], settings: Settings) -> Prepared:
    """Read the files that the configuration names.

    Args:
        folders: Of the training groups; nothing else is read.
        settings: The configuration.

    Raises:
        InvalidInputError: If a file is missing, or nothing is left to train on.
    """
    place: dict[str, int] = {}
    sources: list[str] = []
    taken = {}
    for number, (name, source) in enumerate(settings.sources.items()):
        rng = np.random.default_rng([settings.seed, number])
        taken[name] = _take(read_groups(_file(folders, name)), source, rng)
        for text in taken[name].passages:
            if text not in place:
                place[text] = len(sources)
                sources.append(name)
    passages = list(place)
    validation = [_question(one, name, place) for name in taken for one in taken[name].held_out]
    held_out = np.zeros(len(passages), dtype=bool)
    held_out[[at for one in validation for at in one.positives]] = True
    questions = [
        question
        for name in taken
        for question in (_question(one, name, place) for one in taken[name].groups)
        if not held_out[list(question.positives)].any()
    ]
    if not questions:
        message = "no question is left to train on; hold fewer out in the configuration."
        raise InvalidInputError(message)
    return Prepared(
        passages,
        sources,
        held_out,
        _cut(passages, lambda text: windows_of(text, settings.prepare)),
        _cut(passages, lambda text: sentences_of(text, settings.prepare)),
        questions,
        validation,
    )


def _file(folders: Sequence[Path], source: str) -> Path:
    name = f"{source}.jsonl.gz"
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found:
        message = (
            f"{name} is in none of {', '.join(map(str, folders))}. Name the folder that has it, or "
            f"leave [sources.{source}] out of the configuration."
        )
        raise InvalidInputError(message)
    return found[0]


def _take(groups: list[Group], source: Source, rng: np.random.Generator) -> _Taken:
    """Choose passages, answers before others, and the questions that only these answer."""
    answers = list(dict.fromkeys(text for one in groups for text in one.positives))
    others = dict.fromkeys(text for one in groups for text in one.negatives)
    for text in answers:
        others.pop(text, None)
    chosen = _some(answers, source.passages, rng)
    chosen += _some(list(others), source.passages - len(chosen), rng)
    known = set(chosen)
    usable = [one for one in groups if known.issuperset(one.positives)]
    order = rng.permutation(len(usable)).tolist()
    held_out = [usable[at] for at in order[: source.held_out]]
    asked = {text for one in held_out for text in one.positives}
    left = [one for one in usable if asked.isdisjoint(one.positives)]
    # In the order of the file, where neighbours are mostly of one article.
    ordered = dict.fromkeys(text for one in groups for text in (*one.positives, *one.negatives))
    return _Taken([text for text in ordered if text in known], left, held_out)


def _some(texts: list[str], count: int, rng: np.random.Generator) -> list[str]:
    if len(texts) <= count:
        return texts
    return [texts[at] for at in sorted(rng.choice(len(texts), max(count, 0), replace=False))]


def _question(group: Group, source: str, place: dict[str, int]) -> Question:
    positives = tuple(place[text] for text in group.positives)
    given = tuple(place[text] for text in group.negatives if text in place)
    return Question(group.query, source, positives, given)


def _cut(passages: Iterable[str], cutter: Callable[[str], list[str]]) -> Parts:
    parts = [(number, part) for number, text in enumerate(passages) for part in cutter(text)]
    return Parts([part for _, part in parts], np.array([number for number, _ in parts], np.int64))
