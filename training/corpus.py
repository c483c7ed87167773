"""Corpus of a training: passages, their windows and sentences, and the questions about them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError

FILE_NAME: Final = "prepared.json.gz"


@dataclass(frozen=True)
class Chunks:
    """Windows or sentences of passages.

    Attributes:
        texts: Texts of the chunks, in the order of their passages.
        passages: Passage of each chunk, ascending, shape ``(texts,)``.
    """

    texts: list[str]
    passages: NDArray[np.int64]

    def of(self, passage: int) -> list[int]:
        """Return the positions of the chunks of a passage."""
        start, stop = np.searchsorted(self.passages, [passage, passage + 1]).tolist()
        return list(range(start, stop))

    def select(self, passages: Iterable[int]) -> Chunks:
        """Return the chunks of some passages only."""
        kept = np.flatnonzero(np.isin(self.passages, list(passages)))
        return Chunks([self.texts[position] for position in kept.tolist()], self.passages[kept])


@dataclass(frozen=True)
class Question:
    """A question and the passages that are known to answer it or not.

    Attributes:
        text: The question.
        source: Name of its file, without extension.
        positives: Passages that answer it.
        negatives: Passages that are known not to answer it.
    """

    text: str
    source: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """All passages, in the order of their files, and the questions about them.

    Attributes:
        passages: Texts of the passages.
        sources: Name of the file of each passage.
        held_out: Whether a passage is reserved for validation, shape ``(passages,)``.
        windows: Windows of all passages.
        sentences: Some sentences of all passages.
        questions: Questions for training.
        validation: Questions about the held-out passages.
    """

    passages: list[str]
    sources: list[str]
    held_out: NDArray[np.bool_]
    windows: Chunks
    sentences: Chunks
    questions: list[Question]
    validation: list[Question]

    def save(self, folder: Path) -> None:
        """Write the corpus to one file of a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "passages": self.passages,
            "sources": self.sources,
            "held_out": np.flatnonzero(self.held_out).tolist(),
            "windows": [self.windows.texts, self.windows.passages.tolist()],
            "sentences": [self.sentences.texts, self.sentences.passages.tolist()],
            "questions": [vars(question) for question in self.questions],
            "validation": [vars(question) for question in self.validation],
        }
        with gzip.open(folder / FILE_NAME, "wt", encoding="utf-8", compresslevel=4) as file:
            json.dump(content, file)

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Read a file that :meth:`save` wrote.

        Raises:
            InvalidInputError: If the file is missing or broken.
        """
        try:
            with gzip.open(folder / FILE_NAME, "rt", encoding="utf-8") as file:
                content = json.load(file)
            held_out = np.zeros(len(content["passages"]), dtype=bool)
            held_out[content["held_out"]] = True
            return cls(
                content["passages"],
                content["sources"],
                held_out,
                _chunks(content["windows"]),
                _chunks(content["sentences"]),
                _questions(content["questions"]),
                _questions(content["validation"]),
            )
        except (OSError, EOFError, ValueError, KeyError) as error:
            message = f"{folder / FILE_NAME} cannot be read ({error}); run the step prepare first."
            raise InvalidInputError(message) from error


def _chunks(row: list[Any]) -> Chunks:
    return Chunks(row[0], np.array(row[1], dtype=np.int64))


def _questions(rows: list[dict[str, Any]]) -> list[Question]:
    return [
        Question(row["text"], row["source"], tuple(row["positives"]), tuple(row["negatives"]))
        for row in rows
    ]
