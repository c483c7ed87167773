"""What the first step leaves for the second: passages, their parts, and the questions."""

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

NAME: Final = "prepared.json.gz"


@dataclass(frozen=True)
class Parts:
    """Texts that are parts of passages.

    Attributes:
        texts: Each of them once for each passage that it is a part of.
        passages: Which that is, shape ``(texts,)``, ascending.
    """

    texts: list[str]
    passages: NDArray[np.int64]

    def of(self, passage: int) -> list[int]:
        """Return the positions of a passage's parts."""
        start, stop = np.searchsorted(self.passages, [passage, passage + 1]).tolist()
        return list(range(start, stop))

    def among(self, passages: Iterable[int]) -> Parts:
        """Return the parts of some passages only."""
        kept = np.flatnonzero(np.isin(self.passages, list(passages)))
        return Parts([self.texts[at] for at in kept.tolist()], self.passages[kept])


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        text: It.
        source: The file it is from, without endings.
        positives: Passages that answer it.
        given: Passages that are known not to.
    """

    text: str
    source: str
    positives: tuple[int, ...]
    given: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """All passages in the order of their files, and what is asked of them.

    Attributes:
        passages: Their texts.
        sources: The file of each.
        held_out: Whether validation asks of them, shape ``(passages,)``.
        windows: Their windows.
        sentences: Some of their sentences.
        questions: To train on.
        validation: Of the passages held out.
    """

    passages: list[str]
    sources: list[str]
    held_out: NDArray[np.bool_]
    windows: Parts
    sentences: Parts
    questions: list[Question]
    validation: list[Question]

    def save(self, folder: Path) -> None:
        """Write all of it as one file."""
        folder.mkdir(parents=True, exist_ok=True)
        row = {
            "passages": self.passages,
            "sources": self.sources,
            "held_out": np.flatnonzero(self.held_out).tolist(),
            "windows": [self.windows.texts, self.windows.passages.tolist()],
            "sentences": [self.sentences.texts, self.sentences.passages.tolist()],
            "questions": [vars(one) for one in self.questions],
            "validation": [vars(one) for one in self.validation],
        }
        with gzip.open(folder / NAME, "wt", encoding="utf-8", compresslevel=4) as file:
            json.dump(row, file)

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInputError: If there is no such file.
        """
        try:
            with gzip.open(folder / NAME, "rt", encoding="utf-8") as file:
                row = json.load(file)
        except (OSError, EOFError, ValueError) as error:
            message = f"{folder / NAME} cannot be read ({error}); run the step prepare first."
            raise InvalidInputError(message) from error
        held_out = np.zeros(len(row["passages"]), dtype=bool)
        held_out[row["held_out"]] = True
        return cls(
            row["passages"],
            row["sources"],
            held_out,
            _parts(row["windows"]),
            _parts(row["sentences"]),
            _questions(row["questions"]),
            _questions(row["validation"]),
        )


def _parts(row: list[Any]) -> Parts:
    return Parts(row[0], np.array(row[1], dtype=np.int64))


def _questions(rows: list[dict[str, Any]]) -> list[Question]:
    return [
        Question(one["text"], one["source"], tuple(one["positives"]), tuple(one["given"]))
        for one in rows
    ]
