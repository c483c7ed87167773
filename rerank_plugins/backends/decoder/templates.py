"""Prompts of decoder rerankers, tokenised whole or in parts, exactly as they were trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tokenizers import Encoding, Tokenizer

from rerank_plugins.backends.decoder.tokens import Ids


@dataclass(frozen=True)
class TextTemplate:
    """A prompt that is tokenised together with its texts, as chat templates are.

    Attributes:
        tokenizer: The Rust tokenizer; never changed.
        before: What stands before the query.
        between: What stands between query and document.
        after: What stands after the document.
    """

    tokenizer: Tokenizer
    before: str
    between: str
    after: str

    @cached_property
    def overhead(self) -> int:
        """Tokens of the prompt alone."""
        return len(_encode(self.tokenizer, self.before + self.between + self.after))

    @cached_property
    def tail(self) -> Ids:
        """The tokens after the document."""
        return _encode(self.tokenizer, self.after)

    def cut_query(self, query: str, most: int) -> tuple[str, int, bool]:
        """Return the query's first ``most`` tokens, how many it has, and whether it was cut."""
        return _cut(self.tokenizer, query, most)

    def fill(self, query: str, documents: Sequence[str]) -> list[tuple[Ids, Ids, Ids]]:
        """Return the tokens before, of and after each document.

        The last token before the document counts as the document's: it may reach into it, and what
        stands before it is then the same for all documents of a query.
        """
        start = f"{self.before}{query}{self.between}"
        shared = _encode(self.tokenizer, start)[:-1]
        first = len(start)
        encoded = self.tokenizer.encode_batch(
            [f"{start}{document}{self.after}" for document in documents], add_special_tokens=False
        )
        return [
            _split(one, shared, first, first + len(document))
            for one, document in zip(encoded, documents, strict=True)
        ]


def _split(encoding: Encoding, shared: Ids, start: int, end: int) -> tuple[Ids, Ids, Ids]:
    """Return the tokens before, in and after the characters from ``start`` to ``end``."""
    ids = np.asarray(encoding.ids, dtype=np.int32)
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(len(ids), 2)
    inside = np.flatnonzero(offsets[:, 1] > start)
    head = int(inside[0]) if len(inside) else len(ids)
    beyond = np.flatnonzero(offsets[head:, 0] >= end)
    tail = head + int(beyond[0]) if len(beyond) else len(ids)
    if len(shared) <= head and np.array_equal(ids[: len(shared)], shared):
        head = len(shared)
    return ids[:head], ids[head:tail], ids[tail:]


@dataclass(frozen=True)
class PartsTemplate:
    """A prompt whose parts are tokenised one by one and then put together.

    Attributes:
        tokenizer: The Rust tokenizer; never changed.
        before: Ids before the query.
        query: Text put before the query, tokenised with it.
        between: Ids between query and document.
        document: Text put before the document, tokenised with it.
        after: Ids after the document.
    """

    tokenizer: Tokenizer
    before: Ids
    query: str
    between: Ids
    document: str
    after: Ids

    @cached_property
    def overhead(self) -> int:
        """Tokens of the prompt alone."""
        ids = len(self.before) + len(self.between) + len(self.after)
        return ids + sum(len(_encode(self.tokenizer, one)) for one in (self.query, self.document))

    @property
    def tail(self) -> Ids:
        """The tokens after the document."""
        return self.after

    def cut_query(self, query: str, most: int) -> tuple[str, int, bool]:
        """Return the query's first ``most`` tokens, how many it has, and whether it was cut."""
        return _cut(self.tokenizer, query, most)

    def fill(self, query: str, documents: Sequence[str]) -> list[tuple[Ids, Ids, Ids]]:
        """Return the tokens before, of and after each document."""
        own = _encode(self.tokenizer, self.query + query)
        head = np.concatenate([self.before, own, self.between])
        encoded = self.tokenizer.encode_batch_fast(
            [self.document + document for document in documents], add_special_tokens=False
        )
        return [(head, np.asarray(one.ids, dtype=np.int32), self.after) for one in encoded]


def _encode(tokenizer: Tokenizer, text: str) -> Ids:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)


def _cut(tokenizer: Tokenizer, text: str, most: int) -> tuple[str, int, bool]:
    """Return a text's first ``most`` tokens, how many it has, and whether it was cut."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if len(encoding) <= most:
        return text, len(encoding), False
    return text[: encoding.offsets[most - 1][1]], most, True
