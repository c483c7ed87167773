"""Which prompt a decoder reads: from its chat template, from its family, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from rerank_plugins.backends.families import BOS, Prompt
from rerank_plugins.backends.text import replace_surrogates
from rerank_plugins.backends.torch.tokenization import PairTemplate
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, InvalidInputError, ModelLoadError
from rerank_plugins.types import TextPair

Ids = NDArray[np.int32]

_LEAST: Final = 8
"""Tokens that a prompt must leave for the query and the document."""


@dataclass(frozen=True)
class PromptedPair:
    """A pair as the model reads it.

    Attributes:
        ids: Token ids, int32 of shape ``(tokens,)``.
        head: Tokens before the document: what pairs of one query have in common.
        tail: Tokens after the document.
    """

    ids: Ids
    head: int
    tail: int


class Template(Protocol):
    """Puts a query and documents into a prompt."""

    @property
    def overhead(self) -> int:
        """Tokens of the prompt alone."""
        ...

    @property
    def tail(self) -> Ids:
        """The tokens after the document."""
        ...

    def cut_query(self, query: str, most: int) -> tuple[str, int, bool]:
        """Return the query's first ``most`` tokens, how many it has, and whether it was cut."""
        ...

    def fill(self, query: str, documents: Sequence[str]) -> list[tuple[Ids, Ids, Ids]]:
        """Return the tokens before, of and after each document; no more than its own are cut."""
        ...


class PromptTokenizer:
    """Prepares text pairs for a decoder with a prompt.

    A pair that is too long loses the end of its document, never the prompt; its query loses
    its end only beyond half of what the prompt leaves.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, model: str) -> None:
        """Use a private tokenizer (no truncation, no padding) and a prompt.

        Args:
            template: The prompt.
            tokenizer: The Rust tokenizer; never changed.
            model: Name of the model, for messages.
        """
        self._template = template
        self._tokenizer = tokenizer
        self._model = model

    def prepare(self, pairs: Sequence[TextPair], max_length: int) -> list[TokenizedItem]:
        """Tokenize, cut to ``max_length`` tokens and assemble; thread-safe.

        Raises:
            ConfigurationError: If the prompt leaves no room for the texts.
            InvalidInputError: If nothing is left of a pair.
        """
        rows: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(pairs):
            rows.setdefault(query, []).append(row)
        prepared: dict[int, TokenizedItem] = {}
        for query, own in rows.items():
            kept, _, shortened = self._query(query, max_length)
            documents = [replace_surrogates(pairs[row].document) for row in own]
            filled = self._template.fill(kept, documents)
            for row, (head, document, tail) in zip(own, filled, strict=True):
                cut = len(head) + len(document) + len(tail) > max_length
                if cut:
                    # A token of its own end may have reached from the document into the prompt.
                    tail = self._template.tail  # noqa: PLW2901
                    document = document[: max(1, max_length - len(head) - len(tail))]  # noqa: PLW2901
                ids = np.concatenate([head, document, tail])
                if not len(ids):
                    raise self._nothing()
                pair = PromptedPair(ids, len(head), len(tail))
                prepared[row] = TokenizedItem(len(ids), shortened or cut, pair)
        return [prepared[row] for row in range(len(pairs))]

    def room(self, query: str, max_length: int) -> int:
        """Return how many tokens of a document fit beside a query, at least 1."""
        _, words, _ = self._query(query, max_length)
        return max(1, max_length - self._template.overhead - words)

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token, ``(tokens, 2)`` a text."""
        encoded = self._tokenizer.encode_batch(
            [replace_surrogates(text) for text in texts], add_special_tokens=False
        )
        return [np.array(one.offsets, dtype=np.int64).reshape(len(one), 2) for one in encoded]

    def _nothing(self) -> InvalidInputError:
        message = (
            f"the query and a document have no tokens for {self._model!r}, which has no prompt: "
            "its tokenizer leaves nothing of them. Pass a query with words."
        )
        return InvalidInputError(message)

    def _query(self, query: str, max_length: int) -> tuple[str, int, bool]:
        left = max_length - self._template.overhead
        if left < _LEAST:
            message = (
                f"max_length is {max_length}, and the prompt of {self._model!r} alone has "
                f"{self._template.overhead} tokens; give at least "
                f"{self._template.overhead + _LEAST}, or None for the model's maximum length."
            )
            raise ConfigurationError(message)
        return self._template.cut_query(replace_surrogates(query), left // 2)


@dataclass(frozen=True)
class TextTemplate:
    """A prompt that is tokenized together with its texts, as chat templates are.

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
    """A prompt whose parts are tokenized one by one and then put together.

    Attributes:
        tokenizer: The Rust tokenizer; never changed.
        before: Ids before the query.
        query: Text put before the query, tokenized with it.
        between: Ids between query and document.
        document: Text put before the document, tokenized with it.
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


_QUERY: Final = "QxqueryxQ"
_DOCUMENT: Final = "DxdocumentxD"
_PROBE: Final = ("  what\n", " a \n\n b  ")


def chat_template(
    tokenizer: Any,  # noqa: ANN401  (one of many tokenizer classes)
    rust: Tokenizer,
    model: str,
    prompt: str | None,
    options: dict[str, Any],
) -> Template:
    """Return a chat template with the roles ``query`` and ``document`` as a prompt.

    Args:
        tokenizer: The transformers tokenizer that has the chat template.
        rust: The private Rust tokenizer.
        model: Name of the model, for messages.
        prompt: Content of the role ``system``; None leaves it to the template.
        options: Keyword arguments of ``apply_chat_template``.

    Raises:
        ModelLoadError: If the template does not put both texts unchanged into its text.
    """

    def render(query: str, document: str) -> str:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        if prompt:
            messages.insert(0, {"role": "system", "content": prompt})
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        text.encode()  # no tokenizer reads lone surrogates
        return text

    try:
        before, found, rest = render(_QUERY, _DOCUMENT).partition(_QUERY)
        between, also, after = rest.partition(_DOCUMENT)
        right = (
            found
            and also
            and render(*_PROBE) == before.join(["", _PROBE[0] + between + _PROBE[1] + after])
        )
    except Exception as error:
        message = f"the chat template of {model!r} cannot be used: {error}"
        raise ModelLoadError(message) from error
    if not right:
        message = (
            f"the chat template of {model!r} does not put a message of the role query and one of "
            'the role document unchanged, in this order, into a prompt. Use backend="sbert".'
        )
        raise ModelLoadError(message)
    return TextTemplate(rust, before, between, after)


def family_template(tokenizer: Any, rust: Tokenizer, prompt: Prompt) -> Template:  # noqa: ANN401
    """Return a family's prompt for a tokenizer."""
    if prompt.whole:
        texts = ("".join(part) for part in (prompt.before, prompt.between, prompt.after))
        return TextTemplate(rust, *texts)

    def ids(parts: tuple[str, ...]) -> Ids:
        found: list[int] = []
        for part in parts:
            if part != BOS:
                found += rust.encode(part, add_special_tokens=False).ids
            elif tokenizer.bos_token_id not in (None, tokenizer.pad_token_id):
                found.append(tokenizer.bos_token_id)
        return np.asarray(found, dtype=np.int32)

    return PartsTemplate(
        rust,
        before=ids(prompt.before[:-1]),
        query=prompt.before[-1],
        between=ids(prompt.between[:-1]),
        document=prompt.between[-1],
        after=ids(prompt.after),
    )


def plain_template(rust: Tokenizer, model: str) -> Template:
    """Return how the tokenizer itself joins two texts, for models without a prompt.

    Raises:
        ModelLoadError: If it does not.
    """
    pair = PairTemplate.of(rust, model)
    return PartsTemplate(rust, pair.prefix.ids, "", pair.middle.ids, "", pair.suffix.ids)
