"""Other ways to ask the same: keywords, careless typing, phrases out of a text."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from bm25s.stopwords import STOPWORDS_EN_PLUS

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_ASKING: Final = frozenset(
    {"what", "which", "who", "whom", "whose", "when", "where", "why", "how", "many", "much"}
    | {"do", "does", "did", "is", "are", "was", "were", "can", "could", "should", "would"}
    | {"will", "has", "have", "had"}
)
_DULL: Final = _ASKING | frozenset(STOPWORDS_EN_PLUS)
_FEWEST: Final = 2
_SHORTEST: Final = 5
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
    """Leave only the words that carry meaning; a question of too few stays as it is.

    >>> keywords("What is the capital of France?")
    'capital france'
    """
    left = [word for word in _WORD.findall(question.lower()) if word not in _DULL]
    return " ".join(left) if len(left) >= _FEWEST else question


def casual(question: str) -> str:
    """Write a question as people type it into a search box.

    >>> casual("When did Rome fall?")
    'when did rome fall'
    """
    return question.lower().rstrip("?!. ")


def careless(question: str, rng: Rng) -> str:
    """Ask the same in a hurry: dull words go, letters change places, an opening is added."""
    words = casual(question).split()
    kept = [word for word in words if word not in _DULL or rng.random() < 0.5]  # noqa: PLR2004
    words = kept if len(kept) >= _FEWEST else words
    if rng.random() < 0.4:  # noqa: PLR2004
        at = int(rng.integers(len(words)))
        words[at] = _slip(words[at], rng)
    if rng.random() < 0.25:  # noqa: PLR2004
        words.insert(0, str(rng.choice(_OPENINGS)))
    return " ".join(words)


def _slip(word: str, rng: Rng) -> str:
    """Swap two letters inside a word, or lose one."""
    if len(word) < _SHORTEST:
        return word
    at = int(rng.integers(1, len(word) - 2))
    swapped = word[at + 1] + word[at] if rng.random() < 0.5 else word[at]  # noqa: PLR2004
    return word[:at] + swapped + word[at + 2 :]


def phrase(text: str, rng: Rng) -> str:
    """Cut a run of 4 to 10 words out of a text that begins and ends with meaning; "" if none."""
    words = _WORD.findall(text.lower())
    length = int(rng.integers(4, 11))
    if len(words) < length:
        return ""
    at = int(rng.integers(len(words) - length + 1))
    run = words[at : at + length]
    while run and run[0] in _DULL:
        run.pop(0)
    while run and run[-1] in _DULL:
        run.pop()
    return " ".join(run) if len(run) > _FEWEST else ""


def without_marks(text: str) -> str:
    """Return a text as old abstracts are kept: small letters, no punctuation.

    >>> without_marks("Waves, in a Plasma.")
    'waves in a plasma'
    """
    return " ".join(_WORD.findall(text.lower()))
