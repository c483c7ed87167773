"""Training lists as arrays: the tokens of every text once, and lists that refer to them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.errors import InvalidInputError
from training.settings import Kind

FILE_NAME: Final = "lists.npz"
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class Dataset:
    """Lists of candidates with their targets.

    Attributes:
        tokens: Token ids of all texts, concatenated, without special tokens, uint16.
        ends: End of each text in ``tokens``, int64 of shape ``(texts,)``.
        queries: Text of the query of each list, int32 of shape ``(lists,)``.
        documents: Texts of the candidates, int32 of shape ``(lists, size)``.
        labels: Whether a candidate is relevant, same shape; all False in a list without labels.
        cosines: The bi-encoder's cosines, float16 of the same shape.
        kinds: Kind of each list as a position in :data:`KINDS`, uint8 of shape ``(lists,)``.
        sources: Source of each list as a position in the configuration, uint8, same shape.
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
        """Number of tokens of each pair with special tokens, shape ``(lists, size)``."""
        lengths = np.diff(self.ends, prepend=0)
        return lengths[self.queries][:, None] + lengths[self.documents] + 3

    def save(self, folder: Path) -> Path:
        """Write one compressed file and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / FILE_NAME, **vars(self))
        return folder / FILE_NAME

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read a file that :meth:`save` wrote.

        Raises:
            InvalidInputError: If the file is missing or broken.
        """
        try:
            with np.load(folder / FILE_NAME, allow_pickle=False) as arrays:
                values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            message = f"{folder / FILE_NAME} cannot be read ({error}); run the step mine first."
            raise InvalidInputError(message) from error
        return cls(**values)


class DatasetWriter:
    """Collects lists of candidates and keeps every text once."""

    def __init__(self, sources: Sequence[str], max_tokens: int) -> None:
        """Start without lists.

        Args:
            sources: Names of the sources, in the configuration's order.
            max_tokens: Longer texts are truncated.
        """
        self._sources = {name: number for number, name in enumerate(sources)}
        self._max_tokens = max_tokens
        self._texts: dict[str, int] = {}
        self._rows: list[tuple[int, list[int], int, int, bool]] = []
        self._labels: list[list[bool]] = []
        self._cosines: list[NDArray[np.float32]] = []

    def add(
        self,
        kind: Kind,
        source: str,
        query: str,
        documents: Sequence[str],
        cosines: NDArray[np.float32],
        *,
        relevant: int,
        held_out: bool,
    ) -> None:
        """Add a list.

        Args:
            kind: Kind of the list.
            source: Name of its source.
            query: Its query.
            documents: Its candidates, the relevant ones first.
            cosines: The bi-encoder's cosines, shape ``(documents,)``.
            relevant: Number of relevant candidates; 0 is a list without labels.
            held_out: Whether it is for validation.
        """
        numbers = [self._number(text) for text in documents]
        kind_number, source_number = KINDS.index(kind), self._sources[source]
        self._rows.append((self._number(query), numbers, kind_number, source_number, held_out))
        self._labels.append([position < relevant for position in range(len(documents))])
        self._cosines.append(cosines)

    def dataset(self) -> Dataset:
        """Tokenize all texts and return the lists."""
        encodings = plain_tokenizer().encode_batch_fast(list(self._texts), add_special_tokens=False)
        ids = [
            np.array(encoding.ids[: self._max_tokens], dtype=np.uint16) for encoding in encodings
        ]
        queries, documents, kinds, sources, held_out = zip(*self._rows, strict=True)
        return Dataset(
            tokens=np.concatenate(ids),
            ends=np.cumsum([len(text) for text in ids], dtype=np.int64),
            queries=np.array(queries, dtype=np.int32),
            documents=np.array(documents, dtype=np.int32),
            labels=np.array(self._labels, dtype=bool),
            cosines=np.array(self._cosines, dtype=np.float16),
            kinds=np.array(kinds, dtype=np.uint8),
            sources=np.array(sources, dtype=np.uint8),
            held_out=np.array(held_out, dtype=bool),
        )

    def _number(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))


def plain_tokenizer() -> Tokenizer:
    """Return the tokenizer of the embedded model, without truncation and padding."""
    tokenizer = Tokenizer.from_file(str(cross_encoder_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
