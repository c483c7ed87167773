"""Augmentation of queries: keywords, careless typing, phrases from a text."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from bm25s.stopwords import STOPWORDS_EN_PLUS

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_QUESTION_WORDS: Final = frozenset(
    {"what", "which", "who", "whom", "whose", "when", "where", "why", "how", "many", "much"}
    | {"do", "does", "did", "is", "are", "was", "were", "can", "could", "should", "would"}
    | {"will", "has", "have", "had"}
)
_STOP_WORDS: Final = _QUESTION_WORDS | frozenset(STOPWORDS_EN_PLUS)
_MIN_WORDS: Final = 2
_MIN_TYPO_LENGTH: Final = 5
_OPENINGS: Final = (
    "how do i know",
    "need help:",
    "does anyone know",
    "can you tell me",
    "i want to know",
    "question about",
    "hi,",
)

Rng = np.random.Generator


def keywords(question: str) -> str:
    """Remove question words and stop words, unless fewer than two words would remain.

    >>> keywords("What is the capital of France?")
    'capital france'
    """
    content = [word for word in _WORD.findall(question.lower()) if word not in _STOP_WORDS]
    return " ".join(content) if len(content) >= _MIN_WORDS else question


def casual(question: str) -> str:
    """Write a question as people type it into a search box.

    >>> casual("When did Rome fall?")
    'when did rome fall'
    """
    return question.lower().rstrip("?!. ")


def careless(question: str, rng: Rng) -> str:
    """Write a question in a hurry: drop stop words, add a typo and an opening, each at random."""
    words = casual(question).split()
    kept = [word for word in words if word not in _STOP_WORDS or rng.random() < 0.5]  # noqa: PLR2004
    words = kept if len(kept) >= _MIN_WORDS else words
    if rng.random() < 0.4:  # noqa: PLR2004
        position = int(rng.integers(len(words)))
        words[position] = _typo(words[position], rng)
    if rng.random() < 0.25:  # noqa: PLR2004
        words.insert(0, str(rng.choice(_OPENINGS)))
    return " ".join(words)


def _typo(word: str, rng: Rng) -> str:
    """Swap two letters inside a word, or drop one."""
    if len(word) < _MIN_TYPO_LENGTH:
        return word
    position = int(rng.integers(1, len(word) - 2))
    swap = rng.random() < 0.5  # noqa: PLR2004
    letters = word[position + 1] + word[position] if swap else word[position]
    return word[:position] + letters + word[position + 2 :]


def phrase(text: str, rng: Rng) -> str:
    """Return a run of 4 to 10 words without stop words at its ends; "" if too few are left."""
    words = _WORD.findall(text.lower())
    length = int(rng.integers(4, 11))
    if len(words) < length:
        return ""
    start = int(rng.integers(len(words) - length + 1))
    run = words[start : start + length]
    while run and run[0] in _STOP_WORDS:
        run.pop(0)
    while run and run[-1] in _STOP_WORDS:
        run.pop()
    return " ".join(run) if len(run) > _MIN_WORDS else ""


def without_punctuation(text: str) -> str:
    """Return a text in lower case without punctuation, as in old collections of abstracts.

    >>> without_punctuation("Waves, in a Plasma.")
    'waves in a plasma'
    """
    return " ".join(_WORD.findall(text.lower()))
