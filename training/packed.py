"""The packed training input: tokens of every text once, and lists that point to them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import InvalidInputError
from training.settings import Kind

NAME: Final = "lists.npz"
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class Packed:
    """Lists of candidates with their targets.

    Attributes:
        tokens: Ids of all texts one after another, without special tokens, uint16.
        ends: Where each text ends, int64 of shape ``(texts,)``.
        queries: The query's text of each list, int32 of shape ``(lists,)``.
        documents: The candidates' texts, int32 of shape ``(lists, size)``.
        labels: Whether they are relevant, same shape; nowhere in a list without labels.
        cosines: The bi-encoder's, float16 of the same shape.
        kinds: Positions in :data:`KINDS`, uint8 of shape ``(lists,)``.
        sources: Positions in the configuration's sources, uint8 of shape ``(lists,)``.
        held_out: Whether a list is for validation, shape ``(lists,)``.
    """

    tokens: NDArray[np.uint16]
    ends: NDArray[np.int64]
    queries: NDArray[np.int32]
    documents: NDArray[np.int32]
    labels: NDArray[np.bool_]
    cosines: NDArray[np.float16]
    kinds: NDArray[np.uint8]
    sources: NDArray[np.uint8]
    held_out: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self.queries)

    def text(self, number: int) -> NDArray[np.uint16]:
        """Return the token ids of a text."""
        start = self.ends[number - 1] if number else 0
        return self.tokens[start : self.ends[number]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each pair, special ones included, shape ``(lists, size)``."""
        own = np.diff(self.ends, prepend=0)
        return own[self.queries][:, None] + own[self.documents] + 3

    def save(self, folder: Path) -> Path:
        """Write one compressed file; returns where it lies."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / NAME, **vars(self))
        return folder / NAME

    @classmethod
    def load(cls, folder: Path) -> Packed:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInputError: If there is no such file.
        """
        try:
            with np.load(folder / NAME, allow_pickle=False) as arrays:
                parts: dict[str, Any] = {one.name: arrays[one.name] for one in fields(cls)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            message = f"{folder / NAME} cannot be read ({error}); run the step mine first."
            raise InvalidInputError(message) from error
        return cls(**parts)
