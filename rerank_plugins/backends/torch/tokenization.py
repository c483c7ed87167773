"""Token ids of text pairs: queries and documents encoded once, pairs assembled by us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from rerank_plugins.backends.text import replace_surrogates
from rerank_plugins.backends.tokenizer import truncating_tokenizer
from rerank_plugins.engine.backend import Role, RoleText, TokenizedItem
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair

_PROBES = (("what is rain", "water that falls"), ("a", "b c d e f"))


@dataclass(frozen=True)
class TokenPair:
    """One assembled pair.

    Attributes:
        ids: Token ids, special tokens included, int32 of shape ``(tokens,)``.
        types: Token type ids (which segment), the same shape.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32]


@dataclass(frozen=True)
class PairTemplate:
    """Where a tokenizer puts its special tokens in a pair: ids and type ids of each part.

    For BERT: ``[CLS] query [SEP] document [SEP]``, types 0 up to the first ``[SEP]``.
    """

    prefix: TokenPair
    middle: TokenPair
    suffix: TokenPair
    query_type: int
    document_type: int

    @property
    def special_tokens(self) -> int:
        """How many tokens the template adds."""
        return len(self.prefix.ids) + len(self.middle.ids) + len(self.suffix.ids)

    @classmethod
    def of(cls, tokenizer: Tokenizer, model: str) -> PairTemplate:
        """Read the template off encoded probe pairs and check that it reproduces them.

        Raises:
            ModelLoadError: If the tokenizer does not build pairs from two whole segments.
        """
        first = tokenizer.encode(*_PROBES[0])
        runs = [
            (segment, [position for position, _ in run])
            for segment, run in groupby(enumerate(first.sequence_ids), key=lambda item: item[1])
        ]
        if [segment for segment, _ in runs if segment is not None] != [0, 1]:
            message = f"the tokenizer of {model!r} does not join a query and a document."
            raise ModelLoadError(message)
        ids, types = _int32(first.ids), _int32(first.type_ids)
        query = next(run for segment, run in runs if segment == 0)
        document = next(run for segment, run in runs if segment == 1)

        def part(start: int, stop: int) -> TokenPair:
            return TokenPair(ids[start:stop], types[start:stop])

        template = cls(
            prefix=part(0, query[0]),
            middle=part(query[-1] + 1, document[0]),
            suffix=part(document[-1] + 1, len(ids)),
            query_type=int(types[query[0]]),
            document_type=int(types[document[0]]),
        )
        for probe in _PROBES:
            wanted = tokenizer.encode(*probe)
            made = template.join(
                *(_int32(tokenizer.encode(text, add_special_tokens=False).ids) for text in probe)
            )
            if made.ids.tolist() != wanted.ids or made.types.tolist() != wanted.type_ids:
                message = f"the tokenizer of {model!r} treats a pair differently from its parts."
                raise ModelLoadError(message)
        return template

    def join(self, query: NDArray[np.int32], document: NDArray[np.int32]) -> TokenPair:
        """Put a query's and a document's ids together."""
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
    """Prepares text pairs for a model with ``[CLS] query [SEP] document [SEP]`` input.

    Each distinct query is encoded once, and all documents in one call. A pair that is too
    long loses the end of its document; its query loses its end only beyond half of
    ``max_length``.
    """

    def __init__(self, tokenizer: Tokenizer, model: str) -> None:
        """Use a private tokenizer (no truncation, no padding).

        Args:
            tokenizer: The Rust tokenizer; never changed.
            model: Name of the model, for messages.

        Raises:
            ModelLoadError: If its pairs cannot be assembled.
        """
        self._tokenizer = tokenizer
        self._template = PairTemplate.of(tokenizer, model)

    def prepare(self, pairs: Sequence[TextPair], max_length: int) -> list[TokenizedItem]:
        """Tokenize, cut to ``max_length`` tokens and assemble; thread-safe."""
        queries = dict.fromkeys(query for query, _ in pairs)
        documents = dict.fromkeys(document for _, document in pairs)
        query_ids = self._encode(list(queries))
        document_ids = self._encode(list(documents))
        return [
            self._prepared(query_ids[pair.query], document_ids[pair.document], max_length)
            for pair in pairs
        ]

    def room(self, query: str, max_length: int) -> int:
        """Return how many tokens of a document fit beside a query, at least 1."""
        words = len(self._encode([query])[query])
        return max(1, max_length - self._template.special_tokens - min(words, max_length // 2))

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token, ``(tokens, 2)`` a text."""
        encoded = self._tokenizer.encode_batch(
            [replace_surrogates(text) for text in texts], add_special_tokens=False
        )
        return [np.array(one.offsets, dtype=np.int64).reshape(len(one), 2) for one in encoded]

    def _encode(self, texts: list[str]) -> dict[str, NDArray[np.int32]]:
        encoded = self._tokenizer.encode_batch_fast(
            [replace_surrogates(text) for text in texts], add_special_tokens=False
        )
        return {text: _int32(one.ids) for text, one in zip(texts, encoded, strict=True)}

    def _prepared(
        self, query: NDArray[np.int32], document: NDArray[np.int32], max_length: int
    ) -> TokenizedItem:
        room = max_length - self._template.special_tokens
        truncated = len(query) + len(document) > room
        if truncated:
            query = query[: max_length // 2]
            document = document[: room - len(query)]
        pair = self._template.join(query, document)
        return TokenizedItem(tokens=len(pair.ids), truncated=truncated, payload=pair)


class PairReader:
    """What backends that read token pairs share: their tokenizer, and the most tokens of a pair."""

    _pairs: PairTokenizer
    _max_seq_length: int

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Tokenize and cut text pairs; thread-safe."""
        return self._pairs.prepare(
            items, min(max_length or self._max_seq_length, self._max_seq_length)
        )

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return how many tokens of a document fit beside a query, at least 1."""
        return self._pairs.room(
            query, min(max_length or self._max_seq_length, self._max_seq_length)
        )

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token, ``(tokens, 2)`` a text."""
        return self._pairs.spans(texts)


def _int32(values: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)


class RoleTokenizer:
    """Prepares texts for a model that reads one at a time."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: Mapping[Role, str], max_seq_length: int
    ) -> None:
        """Use a private tokenizer (no truncation, no padding).

        Args:
            tokenizer: The Rust tokenizer; never changed.
            prompts: What stands before a text of each role.
            max_seq_length: Most tokens that the model reads.
        """
        self._prompts = prompts
        self._max_seq_length = max_seq_length
        self._cutting = lru_cache(maxsize=16)(lambda most: truncating_tokenizer(tokenizer, most))

    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Put the prompts before the texts, tokenize and cut; thread-safe.

        Returns:
            Payloads are :class:`TokenPair`, all of one type.
        """
        max_seq_length = min(max_length or self._max_seq_length, self._max_seq_length)
        prompts = [
            self._prompts[item.role] if item.prompt is None else replace_surrogates(item.prompt)
            for item in items
        ]
        encoded = self._cutting(max_seq_length).encode_batch_fast(
            [
                f"{prompt}{replace_surrogates(item.text)}"
                for prompt, item in zip(prompts, items, strict=True)
            ]
        )
        return [
            TokenizedItem(
                tokens=len(one), truncated=bool(one.overflowing), payload=_of_one_type(one)
            )
            for one in encoded
        ]


def _of_one_type(encoding: Encoding) -> TokenPair:
    ids = np.asarray(encoding.ids, dtype=np.int32)
    return TokenPair(ids, np.zeros_like(ids))
