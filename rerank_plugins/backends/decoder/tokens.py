"""Token ids of a query and a document inside a decoder's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerank_plugins.backends._texts import encodable
from rerank_plugins.core.protocols import Prepared
from rerank_plugins.core.types import TextPair
from rerank_plugins.errors import ConfigurationError, InvalidInputError

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

    def prepare(self, pairs: Sequence[TextPair], max_length: int) -> list[Prepared]:
        """Tokenise, cut to ``max_length`` tokens and assemble; thread-safe.

        Raises:
            ConfigurationError: If the prompt leaves no room for the texts.
            InvalidInputError: If nothing is left of a pair.
        """
        rows: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(pairs):
            rows.setdefault(query, []).append(row)
        prepared: dict[int, Prepared] = {}
        for query, own in rows.items():
            kept, _, shortened = self._query(query, max_length)
            documents = [encodable(pairs[row].document) for row in own]
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
                prepared[row] = Prepared(len(ids), shortened or cut, pair)
        return [prepared[row] for row in range(len(pairs))]

    def room(self, query: str, max_length: int) -> int:
        """Return how many tokens of a document fit beside a query, at least 1."""
        _, words, _ = self._query(query, max_length)
        return max(1, max_length - self._template.overhead - words)

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token, ``(tokens, 2)`` a text."""
        encoded = self._tokenizer.encode_batch(
            [encodable(text) for text in texts], add_special_tokens=False
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
                f"{self._template.overhead + _LEAST}, or None for the model's reach."
            )
            raise ConfigurationError(message)
        return self._template.cut_query(encodable(query), left // 2)
