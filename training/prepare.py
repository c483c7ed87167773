"""Step ``prepare``: choose passages, hold some out, and split all into windows and sentences."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from rerank_plugins.core.windows import sentences, split, subsample
from rerank_plugins.errors import InvalidInputError
from training.corpus import Chunks, Corpus, Question
from training.settings import PrepareSettings, Settings, SourceSettings

_SPACE: Final = re.compile(r"\s+")
_WORD: Final = re.compile(r"\S+")


class Group(NamedTuple):
    """A question of a file of training groups.

    Attributes:
        query: The question.
        positives: Texts that answer it, at least one.
        negatives: Texts that do not answer it.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


class _Selection(NamedTuple):
    """Passages of a file in its order, and groups for training and for validation."""

    passages: list[str]
    groups: list[Group]
    held_out: list[Group]


def prepare(folders: Sequence[Path], settings: Settings) -> Corpus:
    """Build the corpus from the files that the configuration names.

    Args:
        folders: Folders of the training groups; the first one that has a file is used.
        settings: The configuration.

    Raises:
        InvalidInputError: If a file is missing, or no question is left to train on.
    """
    position: dict[str, int] = {}
    sources: list[str] = []
    selections = {}
    for number, (name, source) in enumerate(settings.sources.items()):
        rng = np.random.default_rng([settings.seed, number])
        selections[name] = _select(read_groups(_file(folders, name)), source, rng)
        for text in selections[name].passages:
            if text not in position:
                position[text] = len(sources)
                sources.append(name)
    passages = list(position)
    validation = [
        _question(group, name, position)
        for name, selection in selections.items()
        for group in selection.held_out
    ]
    held_out = np.zeros(len(passages), dtype=bool)
    held_out[[passage for question in validation for passage in question.positives]] = True
    questions = [
        question
        for name, selection in selections.items()
        for question in (_question(group, name, position) for group in selection.groups)
        if not held_out[list(question.positives)].any()
    ]
    if not questions:
        message = "no question is left to train on; hold fewer out in the configuration."
        raise InvalidInputError(message)
    return Corpus(
        passages,
        sources,
        held_out,
        _chunk(passages, lambda text: windows_of(text, settings.prepare)),
        _chunk(passages, lambda text: sentences_of(text, settings.prepare)),
        questions,
        validation,
    )


def read_groups(file: Path) -> list[Group]:
    """Read a file with one JSON object per line: ``query``, ``positives``, ``negatives``.

    Runs of white space become one space; questions without a positive are skipped.

    Raises:
        InvalidInputError: If the file cannot be read or a line is not such an object.
    """
    groups = []
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                group = Group(
                    _plain(row["query"]), _texts(row["positives"]), _texts(row["negatives"])
                )
                if group.query and group.positives:
                    groups.append(group)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{file} is not a file of training groups: {error!r}"
        raise InvalidInputError(message) from error
    return groups


def windows_of(text: str, settings: PrepareSettings) -> list[str]:
    """Split a text into overlapping windows that end with sentences; a short text is one."""
    spans = np.array([word.span() for word in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)
    windows = split(text, spans, settings.window_words, settings.overlap_words)
    return [text[start:end].strip() for start, end in subsample(windows, settings.max_windows)]


def sentences_of(text: str, settings: PrepareSettings) -> list[str]:
    """Return some sentences of a suitable length, spread over the text."""
    shortest, longest = settings.sentence_words
    suitable = [
        window
        for window in sentences(text)
        if shortest <= len(text[window.start : window.end].split()) <= longest
    ]
    return [text[start:end].strip() for start, end in subsample(suitable, settings.max_sentences)]


def _file(folders: Sequence[Path], source: str) -> Path:
    name = f"{source}.jsonl.gz"
    files = [folder / name for folder in folders if (folder / name).is_file()]
    if not files:
        message = (
            f"{name} is in none of {', '.join(map(str, folders))}. Name the folder that has it, or "
            f"leave [sources.{source}] out of the configuration."
        )
        raise InvalidInputError(message)
    return files[0]


def _select(groups: list[Group], source: SourceSettings, rng: np.random.Generator) -> _Selection:
    """Choose passages, answers before others, and the questions whose answers are chosen."""
    answers = list(dict.fromkeys(text for group in groups for text in group.positives))
    others = dict.fromkeys(text for group in groups for text in group.negatives)
    for text in answers:
        others.pop(text, None)
    passages = _sample(answers, source.max_passages, rng)
    passages += _sample(list(others), source.max_passages - len(passages), rng)
    chosen = set(passages)
    usable = [group for group in groups if chosen.issuperset(group.positives)]
    order = rng.permutation(len(usable)).tolist()
    held_out = [usable[row] for row in order[: source.held_out]]
    reserved = {text for group in held_out for text in group.positives}
    training = [group for group in usable if reserved.isdisjoint(group.positives)]
    # In the order of the file, where neighbors are mostly from the same article.
    ordered = dict.fromkeys(
        text for group in groups for text in (*group.positives, *group.negatives)
    )
    return _Selection([text for text in ordered if text in chosen], training, held_out)


def _sample(texts: list[str], count: int, rng: np.random.Generator) -> list[str]:
    if len(texts) <= count:
        return texts
    rows = sorted(rng.choice(len(texts), max(count, 0), replace=False))
    return [texts[row] for row in rows]


def _question(group: Group, source: str, position: dict[str, int]) -> Question:
    positives = tuple(position[text] for text in group.positives)
    negatives = tuple(position[text] for text in group.negatives if text in position)
    return Question(group.query, source, positives, negatives)


def _chunk(passages: Iterable[str], split_text: Callable[[str], list[str]]) -> Chunks:
    chunks = [(number, chunk) for number, text in enumerate(passages) for chunk in split_text(text)]
    return Chunks(
        [chunk for _, chunk in chunks], np.array([number for number, _ in chunks], np.int64)
    )


def _texts(values: list[str]) -> tuple[str, ...]:
    return tuple(filter(None, map(_plain, values)))


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
