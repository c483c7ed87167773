"""Tokenization for encoders.

Text pairs are assembled from queries and documents that are encoded once each; single texts get
the prompt of their role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerank_plugins.backends.tokenizer import truncating_tokenizer
from rerank_plugins.engine.backend import Role, RoleText, TokenizedItem
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair, replace_surrogates

_TEMPLATE_PROBES = (("what is rain", "water that falls"), ("a", "b c d e f"))


@dataclass(frozen=True)
class TokenPair:
    """The tokens of a text pair, or of a single text.

    Attributes:
        ids: Token ids including special tokens, int32 of shape ``(tokens,)``.
        types: Token type ids (the segment of each token), the same shape.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32]


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens of a pair: ids and type ids of each part.

    For BERT: ``[CLS] query [SEP] document [SEP]``, types 0 up to the first ``[SEP]``.
    """

    prefix: TokenPair
    middle: TokenPair
    suffix: TokenPair
    query_type: int
    document_type: int

    @property
    def special_tokens(self) -> int:
        """Number of tokens that the template adds."""
        return len(self.prefix.ids) + len(self.middle.ids) + len(self.suffix.ids)

    @classmethod
    def of(cls, tokenizer: Tokenizer, model: str) -> PairTemplate:
        """Derive the template from encoded probe pairs, and check that it reproduces them.

        Raises:
            ModelLoadError: If the tokenizer does not build pairs from two whole segments.
        """
        encoding = tokenizer.encode(*_TEMPLATE_PROBES[0])
        runs = [
            (segment, [position for position, _ in run])
            for segment, run in groupby(enumerate(encoding.sequence_ids), key=lambda item: item[1])
        ]
        if [segment for segment, _ in runs if segment is not None] != [0, 1]:
            message = f"the tokenizer of {model!r} does not join a query and a document."
            raise ModelLoadError(message)
        ids, types = _int32(encoding.ids), _int32(encoding.type_ids)
        query, document = (run for segment, run in runs if segment is not None)

        def part(start: int, stop: int) -> TokenPair:
            return TokenPair(ids[start:stop], types[start:stop])

        template = cls(
            prefix=part(0, query[0]),
            middle=part(query[-1] + 1, document[0]),
            suffix=part(document[-1] + 1, len(ids)),
            query_type=int(types[query[0]]),
            document_type=int(types[document[0]]),
        )
        for probe in _TEMPLATE_PROBES:
            expected = tokenizer.encode(*probe)
            joined = template.join(
                *(_int32(tokenizer.encode(text, add_special_tokens=False).ids) for text in probe)
            )
            if joined.ids.tolist() != expected.ids or joined.types.tolist() != expected.type_ids:
                message = f"the tokenizer of {model!r} treats a pair differently from its parts."
                raise ModelLoadError(message)
        return template

    def join(self, query: NDArray[np.int32], document: NDArray[np.int32]) -> TokenPair:
        """Join the ids of a query and of a document."""
        parts = (self.prefix.ids, query, self.middle.ids, document, self.suffix.ids)
        types = (
            self.prefix.types,
            np.full(len(query), self.query_type, dtype=np.int32),
            self.middle.types,
            np.full(len(document), self.document_type, dtype=np.int32),
            self.suffix.types,
        )
        return TokenPair(np.concatenate(parts), np.concatenate(types))


class PairTokenizer:
    """Tokenizes text pairs for a model with ``[CLS] query [SEP] document [SEP]`` input.

    Each distinct query is encoded once, and all documents in one call. If a pair is too long, the
    end of its document is truncated; its query is truncated only beyond half of ``max_length``.
    """

    def __init__(self, tokenizer: Tokenizer, model: str) -> None:
        """Use a private tokenizer (no truncation, no padding), which is never changed."""
        self._tokenizer = tokenizer
        self._template = PairTemplate.of(tokenizer, model)

    def prepare(self, pairs: Sequence[TextPair], max_length: int) -> list[TokenizedItem]:
        """Tokenize, truncate and assemble; the payloads are :class:`TokenPair`; thread-safe."""
        query_ids = self._encode(list(dict.fromkeys(pair.query for pair in pairs)))
        document_ids = self._encode(list(dict.fromkeys(pair.document for pair in pairs)))
        return [
            self._assemble(query_ids[pair.query], document_ids[pair.document], max_length)
            for pair in pairs
        ]

    def room(self, query: str, max_length: int) -> int:
        """Return how many document tokens fit next to a query, at least 1."""
        query_tokens = min(len(self._encode([query])[query]), max_length // 2)
        return max(1, max_length - self._template.special_tokens - query_tokens)

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the character span ``[start, end)`` of each token, ``(tokens, 2)`` per text."""
        return token_spans(self._tokenizer, texts)

    def _encode(self, texts: list[str]) -> dict[str, NDArray[np.int32]]:
        encodings = self._tokenizer.encode_batch_fast(
            [replace_surrogates(text) for text in texts], add_special_tokens=False
        )
        return {text: _int32(encoding.ids) for text, encoding in zip(texts, encodings, strict=True)}

    def _assemble(
        self, query: NDArray[np.int32], document: NDArray[np.int32], max_length: int
    ) -> TokenizedItem:
        available = max_length - self._template.special_tokens
        truncated = len(query) + len(document) > available
        if truncated:
            query = query[: max_length // 2]
            document = document[: available - len(query)]
        pair = self._template.join(query, document)
        return TokenizedItem(tokens=len(pair.ids), truncated=truncated, payload=pair)


class SupportsPairs(Protocol):
    """A tokenizer of text pairs: :class:`PairTokenizer`, or a decoder's with a prompt."""

    def prepare(self, pairs: Sequence[TextPair], max_length: int) -> list[TokenizedItem]:
        """Tokenize pairs and truncate them to ``max_length`` tokens."""

    def room(self, query: str, max_length: int) -> int:
        """Return how many document tokens fit next to a query, at least 1."""

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the character span ``[start, end)`` of each token, ``(tokens, 2)`` per text."""


class PairTokenizerMixin:
    """The tokenization methods of a cross-encoder backend, which sets both attributes."""

    _pairs: SupportsPairs
    _max_seq_length: int

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Tokenize and truncate text pairs; thread-safe."""
        return self._pairs.prepare(items, self._limit(max_length))

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return how many document tokens fit next to a query, at least 1."""
        return self._pairs.room(query, self._limit(max_length))

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the character span ``[start, end)`` of each token, ``(tokens, 2)`` per text."""
        return self._pairs.spans(texts)

    def _limit(self, max_length: int | None) -> int:
        return min(max_length or self._max_seq_length, self._max_seq_length)


class RoleTokenizer:
    """Tokenizes single texts, with a prompt for the role of each."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: Mapping[Role, str], max_seq_length: int
    ) -> None:
        """Use a private tokenizer (no truncation, no padding), which is never changed."""
        self._prompts = prompts
        self._max_seq_length = max_seq_length
        self._truncating = lru_cache(maxsize=16)(
            lambda length: truncating_tokenizer(tokenizer, length)
        )

    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Prepend prompts, tokenize and truncate; the token type is 0; thread-safe."""
        texts = [
            (self._prompts[item.role] if item.prompt is None else replace_surrogates(item.prompt))
            + replace_surrogates(item.text)
            for item in items
        ]
        length = min(max_length or self._max_seq_length, self._max_seq_length)
        encodings = self._truncating(length).encode_batch_fast(texts)
        ids = [_int32(encoding.ids) for encoding in encodings]
        return [
            TokenizedItem(len(row), bool(encoding.overflowing), TokenPair(row, np.zeros_like(row)))
            for row, encoding in zip(ids, encodings, strict=True)
        ]


def token_spans(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the character span ``[start, end)`` of each token, ``(tokens, 2)`` per text."""
    encodings = tokenizer.encode_batch(
        [replace_surrogates(text) for text in texts], add_special_tokens=False
    )
    return [
        np.array(encoding.offsets, dtype=np.int64).reshape(len(encoding), 2)
        for encoding in encodings
    ]


def _int32(values: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)
