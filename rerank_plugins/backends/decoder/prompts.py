"""Prompts of decoder rerankers, and the tokenization of text pairs with them.

A prompt comes from a chat template, from the family of the model, or it is just the special tokens
with which the tokenizer joins two texts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from rerank_plugins.backends.detection import BOS, Prompt
from rerank_plugins.backends.torch.tokenization import PairTemplate, token_spans
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, InvalidInputError, ModelLoadError
from rerank_plugins.types import TextPair, replace_surrogates

Ids = NDArray[np.int32]

_MIN_AVAILABLE: Final = 8
"""Number of tokens that a prompt must leave for the query and the document."""

_PLACEHOLDERS: Final = ("QxqueryxQ", "DxdocumentxD")
_TEMPLATE_PROBE: Final = ("  what\n", " a \n\n b  ")


@dataclass(frozen=True)
class PromptedPair:
    """The tokens of a prompt with a text pair.

    Attributes:
        ids: Token ids, int32 of shape ``(tokens,)``.
        head: Number of tokens before the document, which all pairs of a query have in common.
        tail: Number of tokens after the document.
    """

    ids: Ids
    head: int
    tail: int


@dataclass(frozen=True)
class Template(ABC):
    """Inserts a query and documents into a prompt; the Rust tokenizer is never changed."""

    tokenizer: Tokenizer

    @property
    @abstractmethod
    def overhead(self) -> int:
        """Number of tokens of the prompt without texts."""

    @property
    @abstractmethod
    def tail(self) -> Ids:
        """Ids of the tokens after the document."""

    @abstractmethod
    def fill(self, query: str, documents: Sequence[str]) -> list[tuple[Ids, Ids, Ids]]:
        """Return the ids before, in and after each document; nothing is truncated."""

    def truncate_query(self, query: str, max_tokens: int) -> tuple[str, int, bool]:
        """Return the truncated query, its number of tokens, and whether it was longer."""
        encoding = self.tokenizer.encode(query, add_special_tokens=False)
        if len(encoding) <= max_tokens:
            return query, len(encoding), False
        return query[: encoding.offsets[max_tokens - 1][1]], max_tokens, True


class PromptTokenizer:
    """Tokenizes text pairs for a decoder with a prompt.

    If a pair is too long, the end of its document is truncated, never the prompt; its query is
    truncated only beyond half of what the prompt leaves.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, model: str) -> None:
        """Use a private tokenizer (no truncation, no padding) and a prompt."""
        self._template = template
        self._tokenizer = tokenizer
        self._model = model

    def prepare(self, pairs: Sequence[TextPair], max_length: int) -> list[TokenizedItem]:
        """Tokenize, truncate to ``max_length`` tokens and assemble; thread-safe.

        The payload of the items is a :class:`PromptedPair`.
        """
        rows_of_query: dict[str, list[int]] = {}
        for row, pair in enumerate(pairs):
            rows_of_query.setdefault(pair.query, []).append(row)
        items: dict[int, TokenizedItem] = {}
        for query, rows in rows_of_query.items():
            kept_query, _, query_truncated = self._truncate_query(query, max_length)
            documents = [replace_surrogates(pairs[row].document) for row in rows]
            filled = self._template.fill(kept_query, documents)
            for row, (head, document, tail) in zip(rows, filled, strict=True):
                document_truncated = len(head) + len(document) + len(tail) > max_length
                if document_truncated:
                    # A token may have spanned the end of the document and the start of the tail.
                    tail = self._template.tail  # noqa: PLW2901
                    document = document[: max(1, max_length - len(head) - len(tail))]  # noqa: PLW2901
                ids = np.concatenate([head, document, tail])
                if not len(ids):
                    message = (
                        f"a query and a document have no tokens for {self._model!r}, which has no "
                        "prompt: its tokenizer removes all of their characters. Pass a query with "
                        "words."
                    )
                    raise InvalidInputError(message)
                truncated = query_truncated or document_truncated
                payload = PromptedPair(ids, len(head), len(tail))
                items[row] = TokenizedItem(len(ids), truncated, payload)
        return [items[row] for row in range(len(pairs))]

    def room(self, query: str, max_length: int) -> int:
        """Return how many document tokens fit next to a query, at least 1."""
        _, query_tokens, _ = self._truncate_query(query, max_length)
        return max(1, max_length - self._template.overhead - query_tokens)

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the character span ``[start, end)`` of each token, ``(tokens, 2)`` per text."""
        return token_spans(self._tokenizer, texts)

    def _truncate_query(self, query: str, max_length: int) -> tuple[str, int, bool]:
        available = max_length - self._template.overhead
        if available < _MIN_AVAILABLE:
            message = (
                f"max_length is {max_length}, and the prompt of {self._model!r} alone has "
                f"{self._template.overhead} tokens; give at least "
                f"{self._template.overhead + _MIN_AVAILABLE}, or None for the model's maximum "
                "length."
            )
            raise ConfigurationError(message)
        return self._template.truncate_query(replace_surrogates(query), available // 2)


@dataclass(frozen=True)
class TextTemplate(Template):
    """A prompt that is tokenized together with its texts, as chat templates are."""

    before: str
    between: str
    after: str

    @cached_property
    def overhead(self) -> int:
        """Number of tokens of the prompt without texts."""
        return len(_encode(self.tokenizer, self.before + self.between + self.after))

    @cached_property
    def tail(self) -> Ids:
        """Ids of the tokens after the document."""
        return _encode(self.tokenizer, self.after)

    def fill(self, query: str, documents: Sequence[str]) -> list[tuple[Ids, Ids, Ids]]:
        """Return the ids before, in and after each document.

        The last token before the document counts as part of the document, because it may contain
        characters of both; all earlier tokens are the same for all documents of a query.
        """
        start = f"{self.before}{query}{self.between}"
        shared = _encode(self.tokenizer, start)[:-1]
        encodings = self.tokenizer.encode_batch(
            [f"{start}{document}{self.after}" for document in documents], add_special_tokens=False
        )
        return [
            _split(encoding, shared, len(start), len(start) + len(document))
            for encoding, document in zip(encodings, documents, strict=True)
        ]


@dataclass(frozen=True)
class PartsTemplate(Template):
    """A prompt whose parts are tokenized separately and then concatenated.

    The texts ``query`` and ``document`` are tokenized with the query and the document after them.
    """

    before: Ids
    query: str
    between: Ids
    document: str
    after: Ids

    @cached_property
    def overhead(self) -> int:
        """Number of tokens of the prompt without texts."""
        ids = len(self.before) + len(self.between) + len(self.after)
        return ids + sum(len(_encode(self.tokenizer, text)) for text in (self.query, self.document))

    @property
    def tail(self) -> Ids:
        """Ids of the tokens after the document."""
        return self.after

    def fill(self, query: str, documents: Sequence[str]) -> list[tuple[Ids, Ids, Ids]]:
        """Return the ids before, in and after each document."""
        query_ids = _encode(self.tokenizer, self.query + query)
        head = np.concatenate([self.before, query_ids, self.between])
        encodings = self.tokenizer.encode_batch_fast(
            [self.document + document for document in documents], add_special_tokens=False
        )
        return [
            (head, np.asarray(encoding.ids, dtype=np.int32), self.after) for encoding in encodings
        ]


def chat_template(
    tokenizer: Any,  # noqa: ANN401  (one of many tokenizer classes)
    rust: Tokenizer,
    model: str,
    prompt: str | None,
    options: dict[str, Any],
) -> Template:
    """Return the prompt of a chat template with the roles ``query`` and ``document``.

    ``prompt`` is the content of the role ``system``; ``options`` are keyword arguments of
    ``apply_chat_template``.
    """

    def render(query: str, document: str) -> str:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        if prompt:
            messages.insert(0, {"role": "system", "content": prompt})
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        text.encode()  # raises for lone surrogates, which no tokenizer accepts
        return text

    try:
        before, has_query, rest = render(*_PLACEHOLDERS).partition(_PLACEHOLDERS[0])
        between, has_document, after = rest.partition(_PLACEHOLDERS[1])
        query, document = _TEMPLATE_PROBE
        expected = f"{before}{query}{between}{document}{after}"
        valid = has_query and has_document and render(query, document) == expected
    except Exception as error:
        message = f"the chat template of {model!r} cannot be used: {error}"
        raise ModelLoadError(message) from error
    if not valid:
        message = (
            f"the chat template of {model!r} does not insert a message of the role query and one "
            'of the role document unchanged, in this order. Use backend="sbert".'
        )
        raise ModelLoadError(message)
    return TextTemplate(rust, before, between, after)


def family_template(tokenizer: Any, rust: Tokenizer, prompt: Prompt) -> Template:  # noqa: ANN401
    """Return the prompt of a family for a tokenizer."""
    if prompt.whole:
        texts = ("".join(part) for part in (prompt.before, prompt.between, prompt.after))
        return TextTemplate(rust, *texts)

    def encode(parts: tuple[str, ...]) -> Ids:
        ids: list[int] = []
        for part in parts:
            if part != BOS:
                ids += rust.encode(part, add_special_tokens=False).ids
            elif tokenizer.bos_token_id not in (None, tokenizer.pad_token_id):
                ids.append(tokenizer.bos_token_id)
        return np.asarray(ids, dtype=np.int32)

    return PartsTemplate(
        rust,
        before=encode(prompt.before[:-1]),
        query=prompt.before[-1],
        between=encode(prompt.between[:-1]),
        document=prompt.between[-1],
        after=encode(prompt.after),
    )


def plain_template(rust: Tokenizer, model: str) -> Template:
    """Return the special tokens with which the tokenizer joins two texts, without a prompt."""
    pair = PairTemplate.of(rust, model)
    return PartsTemplate(rust, pair.prefix.ids, "", pair.middle.ids, "", pair.suffix.ids)


def _encode(tokenizer: Tokenizer, text: str) -> Ids:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)


def _split(encoding: Encoding, shared: Ids, start: int, end: int) -> tuple[Ids, Ids, Ids]:
    """Return the ids before, in and after the characters from ``start`` to ``end``."""
    ids = np.asarray(encoding.ids, dtype=np.int32)
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(len(ids), 2)
    inside = np.flatnonzero(offsets[:, 1] > start)
    head = int(inside[0]) if len(inside) else len(ids)
    beyond = np.flatnonzero(offsets[head:, 0] >= end)
    tail = head + int(beyond[0]) if len(beyond) else len(ids)
    if len(shared) <= head and np.array_equal(ids[: len(shared)], shared):
        head = len(shared)
    return ids[:head], ids[head:tail], ids[tail:]
