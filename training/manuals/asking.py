"""Questions out of the titles of manuals, as the one who looks something up would ask."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np

_FORMS: Final = (
    "How do I {}?",
    "How can I {}?",
    "How to {}?",
    "Is there a way to {}?",
    "Is it possible to {}?",
    "I want to {}.",
    "What is the easiest way to {}?",
    "I would like to {}, how is that done?",
    "{}",
)
_WANTED: Final = (
    "What can I use as {}?",
    "Is there any {}?",
    "I am looking for {}.",
    "Does anyone know a good {}?",
    "Which is the best {}?",
    "{}",
    "{}",
)
_OWN: Final = {"your": "my", "yours": "mine", "yourself": "myself", "you": "I"}
_YOU: Final = re.compile(r"\b(?:yours|yourself|your|you)\b", re.IGNORECASE)
_WORD: Final = re.compile(r"\b[a-z]{2,}\b")
_AFTER_TO: Final = re.compile(r"\bto ([a-z]{2,})\b")
_OFTEN: Final = 5
_SHARE: Final = 0.12
"""A verb stands so often after "to", as a count and as a share of all its places."""


class Asker:
    """Knows which words are verbs, from the manuals' own sentences."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Count what stands after "to"."""
        after: Counter[str] = Counter()
        anywhere: Counter[str] = Counter()
        for text in texts:
            after.update(_AFTER_TO.findall(text))
            anywhere.update(_WORD.findall(text.lower()))
        self._verbs = {
            word for word, count in after.items() if count >= max(_OFTEN, _SHARE * anywhere[word])
        }

    def ask(self, title: str, rng: np.random.Generator) -> str:
        """Ask how to do what a title says; one that says nothing to do stays as it is."""
        task = self._task(title)
        if task is None:
            return title
        return str(rng.choice(_FORMS)).format(_YOU.sub(_mine, task))

    def look_for(self, thing: str, rng: np.random.Generator) -> str:
        """Ask for a program by what it is, or by what it does."""
        if self._task(thing) is not None:
            return self.ask(thing, rng)
        return str(rng.choice(_WANTED)).format(thing)

    def _task(self, title: str) -> str | None:
        first, _, rest = title.rstrip(". ").partition(" ")
        if first == "To":
            first, _, rest = rest.partition(" ")
        verb = self._base(first.lower())
        return f"{verb} {rest}" if verb and rest else None

    def _base(self, word: str) -> str | None:
        if word.endswith("ing"):
            stem = word[:-3]
            forms = [stem, stem + "e", stem[:-1]]
            return next((form for form in forms if form in self._verbs), None)
        return word if word in self._verbs else None


def _mine(found: re.Match[str]) -> str:
    return _OWN[found[0].lower()]
