"""Windows of long documents: pure functions on texts and token spans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.engine.backend import Backend, SupportsTokenSpans
from rerank_plugins.types import Window

Spans = NDArray[np.int64]
"""Characters ``[start, end)`` of each token of a text, shape ``(tokens, 2)``."""

_FLEXIBLE: Final = 4
"""A window may end up to one part in ``_FLEXIBLE`` early, at the end of a sentence or word."""

_PIECE: Final = re.compile(r"[^\W\u2e80-\uffef]{1,4}|\S")
_SENTENCE_START: Final = re.compile(
    r"""(?:[.!?\u2026\u061f\u06d4]["'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f\u0964\u0965]\s*|\n\s*)(?=\S)"""
)
_WORD_START: Final = re.compile(r"\s(?=\S)|(?=[\u2e80-\uffef])")


def estimated_spans(text: str) -> Spans:
    """Return pieces of up to four letters, for models whose tokens only a server knows.

    Their number is an upper estimate for most texts; each character of a script without spaces
    is one piece.
    """
    spans = [match.span() for match in _PIECE.finditer(text)]
    return np.array(spans, dtype=np.int64).reshape(len(spans), 2)


def split(text: str, spans: Spans, room: int, overlap: int) -> list[Window]:
    """Split a text into overlapping windows that each fit.

    A window ends at the end of a sentence if there is one in its last quarter, otherwise at the
    end of a word, otherwise between two tokens. The next window begins in the same way,
    ``overlap`` tokens earlier or slightly less. Together the windows cover the text.

    Args:
        text: The document.
        spans: Its tokens.
        room: Maximum tokens per window, at least 1.
        overlap: Tokens shared with the previous window; at most half of ``room`` is used.

    Returns:
        At least one window, from first to last.
    """
    if len(spans) <= room:
        return [Window(0, len(text))]
    starts = spans[:, 0]
    boundaries = [_tokens_at(pattern, text, starts) for pattern in (_SENTENCE_START, _WORD_START)]
    overlap = min(overlap, room // 2)
    windows = []
    first = 0
    while len(spans) - first > room:
        limit = first + room
        stop = _last(boundaries, first + room - room // _FLEXIBLE, limit)
        windows.append(Window(_character(starts, first), _character(starts, stop)))
        # At least one token further, whatever the overlap and the boundaries.
        first = max(first + 1, _first(boundaries, stop - overlap, stop - 1))
    return [*windows, Window(_character(starts, first), len(text))]


def sentences(text: str) -> list[Window]:
    """Split a text into its sentences, which together are the whole text.

    >>> [("It rains. Tea?"[start:end]) for start, end in sentences("It rains. Tea?")]
    ['It rains. ', 'Tea?']
    """
    cuts = [0, *(match.end() for match in _SENTENCE_START.finditer(text)), len(text)]
    return [Window(start, end) for start, end in pairwise(cuts) if end > start]


def subsample(windows: Sequence[Window], max_windows: int | None) -> list[Window]:
    """Keep at most ``max_windows`` windows, spread evenly from the first to the last.

    >>> subsample([Window(start, start + 1) for start in range(9)], 3)
    [Window(start=0, end=1), Window(start=4, end=5), Window(start=8, end=9)]
    """
    if max_windows is None or len(windows) <= max_windows:
        return list(windows)
    return [windows[round(at)] for at in np.linspace(0, len(windows) - 1, max_windows)]


def _tokens_at(pattern: re.Pattern[str], text: str, starts: Spans) -> NDArray[np.intp]:
    """Return the tokens that begin where a match of the pattern ends."""
    ends = np.array([match.end() for match in pattern.finditer(text)], dtype=np.int64)
    tokens = np.unique(np.searchsorted(starts, ends))
    tokens = tokens[tokens < len(starts)]
    return tokens[np.isin(starts[tokens], ends)]


def _last(boundaries: Sequence[NDArray[np.intp]], low: int, high: int) -> int:
    """Return the last boundary from ``low`` to ``high``, of the best kind there is."""
    for tokens in boundaries:
        at = int(np.searchsorted(tokens, high, side="right")) - 1
        if at >= 0 and tokens[at] >= low:
            return int(tokens[at])
    return high


def _first(boundaries: Sequence[NDArray[np.intp]], low: int, high: int) -> int:
    """Return the first boundary from ``low`` to ``high``, of the best kind there is."""
    for tokens in boundaries:
        at = int(np.searchsorted(tokens, low))
        if at < len(tokens) and tokens[at] <= high:
            return int(tokens[at])
    return low


def _character(starts: Spans, token: int) -> int:
    return 0 if token == 0 else int(starts[token])


_SPARE: Final = 2
"""Tokens left free in a window: a part of a text may have more tokens than within the text."""

_SPECIAL: Final = 8
"""Room for special tokens of models whose tokenizer only a server has."""


@dataclass(frozen=True)
class WindowSplitter:
    """Splits documents into windows that fit into a pair with the query.

    Attributes:
        backend: The model's backend.
        max_length: Maximum tokens per pair; None is the model's maximum length.
        overlap: Tokens that a window shares with the window before it.
        prompt: Text before every window, which takes room.
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
        # A text that fits as a whole needs no spare room.
        for text, tokens in list(spans.items()):
            if len(tokens) <= room or (len(tokens) <= whole and self._fits(text, whole)):
                del spans[text]
        return [
            split(text, spans[text], room, self.overlap)
            if text in spans
            else [Window(0, len(text))]
            for text in texts
        ]

    def _fits(self, text: str, whole: int) -> bool:
        """Return whether the model reads a whole text, prompt included."""
        exact = isinstance(self.backend, SupportsTokenSpans)
        return exact and len(self._spans([self.prompt + text])[0]) <= whole

    def _room(self, query: str) -> int:
        if isinstance(self.backend, SupportsTokenSpans):
            return self.backend.room(query, self.max_length)
        max_seq_length = self.backend.identity.max_length
        length = min(self.max_length or max_seq_length, max_seq_length)
        return length - min(len(estimated_spans(query)) + _SPECIAL, length // 2)

    def _spans(self, texts: Sequence[str]) -> list[Spans]:
        if isinstance(self.backend, SupportsTokenSpans):
            return self.backend.spans(texts)
        return [estimated_spans(text) for text in texts]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
