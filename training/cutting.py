"""Passages as windows of some words and as sentences."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from rerank_plugins.core.windows import sentences, split, thin_out
from training.settings import Prepare

_WORD: Final = re.compile(r"\S+")


def windows_of(text: str, settings: Prepare) -> list[str]:
    """Return overlapping windows that end where sentences do; a short text is one window."""
    spans = np.array([one.span() for one in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)
    cut = split(text, spans, settings.window_words, settings.overlap_words)
    return [text[start:end].strip() for start, end in thin_out(cut, settings.windows)]


def sentences_of(text: str, settings: Prepare) -> list[str]:
    """Return some sentences of a fit length, spread over the text."""
    least, most = settings.sentence_words
    cut = [one for one in sentences(text) if least <= len(text[one[0] : one[1]].split()) <= most]
    return [text[start:end].strip() for start, end in thin_out(cut, settings.sentences)]
