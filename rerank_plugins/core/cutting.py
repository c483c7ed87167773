"""Windows for the documents of a query, by the tokens of the model that will read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rerank_plugins.core.protocols import Backend, Tokenising
from rerank_plugins.core.types import Window
from rerank_plugins.core.windows import Spans, estimated_spans, split

_SPARE: Final = 2
"""Tokens left free in a window: cut out of its text, a part may be tokenised a little longer."""

_SPECIAL: Final = 8
"""Room for special tokens where only a server knows them."""


@dataclass(frozen=True)
class Cutter:
    """Cuts documents into windows that fit beside a query.

    Attributes:
        backend: What will read them.
        max_length: Most tokens a pair may have; None is the model's reach.
        overlap: Tokens that a window shares with the one before it.
        prompt: What is put before every window, and takes its room.
    """

    backend: Backend[Any]
    max_length: int | None
    overlap: int
    prompt: str

    def __call__(self, query: str, texts: Sequence[str]) -> list[list[Window]]:
        """Return the windows of each text; a text that fits is one window."""
        whole = self._room(query)
        room = max(1, whole - _SPARE - len(self._spans([self.prompt])[0]))
        # No tokenizer makes more tokens than a text has bytes.
        long = [text for text in dict.fromkeys(texts) if _bytes(text) > room]
        spans = dict(zip(long, self._spans(long), strict=True))
        # What is read in one needs no spare room: it is not cut out of anything.
        for text, own in list(spans.items()):
            if len(own) <= room or (len(own) <= whole and self._fits(text, whole)):
                del spans[text]
        return [
            split(text, spans[text], room, self.overlap)
            if text in spans
            else [Window(0, len(text))]
            for text in texts
        ]

    def _fits(self, text: str, whole: int) -> bool:
        """Return whether the model reads all of a text, prompt included."""
        exact = isinstance(self.backend, Tokenising)
        return exact and len(self._spans([self.prompt + text])[0]) <= whole

    def _room(self, query: str) -> int:
        if isinstance(self.backend, Tokenising):
            return self.backend.room(query, self.max_length)
        reach = self.backend.identity.max_length
        length = min(self.max_length or reach, reach)
        return length - min(len(estimated_spans(query)) + _SPECIAL, length // 2)

    def _spans(self, texts: Sequence[str]) -> list[Spans]:
        if isinstance(self.backend, Tokenising):
            return self.backend.spans(texts)
        return [estimated_spans(text) for text in texts]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
