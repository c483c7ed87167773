"""Collects lists and packs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerank_plugins.backends._mini import cross_encoder_folder
from training.packed import KINDS, Packed
from training.settings import Kind


def plain_tokenizer() -> Tokenizer:
    """Return the tokenizer of the embedded model, without truncation and padding."""
    tokenizer = Tokenizer.from_file(str(cross_encoder_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Writer:
    """Collects lists of candidates; every text is kept once."""

    def __init__(self, sources: Sequence[str], most_tokens: int) -> None:
        """Begin.

        Args:
            sources: Names of the files, in the configuration's order.
            most_tokens: Longer texts are cut.
        """
        self._sources = {name: number for number, name in enumerate(sources)}
        self._most = most_tokens
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
            kind: Of the list.
            source: Name of its file.
            query: Its query.
            documents: Its candidates, the relevant ones first.
            cosines: The bi-encoder's, shape ``(documents,)``.
            relevant: How many are relevant; 0 is a list without labels.
            held_out: Whether it is for validation.
        """
        numbers = [self._number(text) for text in documents]
        at, from_source = KINDS.index(kind), self._sources[source]
        self._rows.append((self._number(query), numbers, at, from_source, held_out))
        self._labels.append([place < relevant for place in range(len(documents))])
        self._cosines.append(cosines)

    def packed(self) -> Packed:
        """Tokenise all texts and pack the lists."""
        encoded = plain_tokenizer().encode_batch_fast(list(self._texts), add_special_tokens=False)
        ids = [np.array(one.ids[: self._most], dtype=np.uint16) for one in encoded]
        queries, documents, kinds, sources, held_out = zip(*self._rows, strict=True)
        return Packed(
            tokens=np.concatenate(ids),
            ends=np.cumsum([len(one) for one in ids], dtype=np.int64),
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
