"""What is scored: questions of real sets with the bi-encoder's best texts for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.candidates import nearest
from rerank_plugins.evaluation.datasets import Passage, read_beir

SEED: Final = 17
QUESTIONS: Final = 40
_LONG_WORDS: Final = 380
"""About 512 tokens of English."""


@dataclass(frozen=True)
class TextSet:
    """Where texts come from.

    Attributes:
        about: What they are.
        folder: Name of a retrieval set in BEIR layout.
        joined: Whether neighbours under one title are joined to long documents.
    """

    about: str
    folder: str
    joined: bool = False


TEXT_SETS: Final = {
    "nq": TextSet("search queries, Wikipedia passages", "nq-gold"),
    "faq": TextSet("questions on software, paraphrased", "stackfaq"),
    "long": TextSet("questions, Wikipedia articles cut at about 512 tokens", "squad-dev", True),  # noqa: FBT003
}


class Request(NamedTuple):
    """A question and its candidates, best first."""

    query: str
    texts: list[str]


def requests(
    name: str, data: Path, cache: Path | None = None, *, most: int | None = None
) -> list[Request]:
    """Return questions with all candidates that a set has for them, at most 1000.

    Args:
        name: One of :data:`TEXT_SETS`.
        data: Folder of the sets.
        cache: Folder that keeps the bi-encoder's rankings, or None.
        most: Use only so many texts of the set, to be quick; None is all.
    """
    chosen = TEXT_SETS[name]
    found = read_beir(data / chosen.folder)
    passages = found.passages[:most]
    texts = joined(passages) if chosen.joined else [passage.content for passage in passages]
    texts = list(dict.fromkeys(texts))  # every system is to score every text
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    asked = rng.sample(sorted(found.queries.values()), min(QUESTIONS, len(found.queries)))
    stored = cache and cache / f"{name}-{len(texts)}.npy"
    if stored and stored.is_file():
        best = np.load(stored)
    else:
        best = nearest(asked, texts, 1_000)[1]
        if stored:
            np.save(stored, best)
    return [
        Request(query, [texts[at] for at in row]) for query, row in zip(asked, best, strict=True)
    ]


def joined(passages: Sequence[Passage]) -> list[str]:
    """Join neighbours under one title until each text has about 512 tokens."""
    texts: list[str] = []
    title, words = "", _LONG_WORDS
    for passage in passages:
        if words >= _LONG_WORDS or passage.title != title:
            texts.append(passage.content)
            title, words = passage.title, 0
        else:
            texts[-1] += f"\n{passage.text}"
        words += len(passage.text.split())
    return texts


def token_counts(tokenizer: Any, request: Request, max_length: int = 512) -> list[int]:  # noqa: ANN401
    """Return how many tokens each pair has, cut and without padding."""
    pairs = tokenizer(
        [request.query] * len(request.texts),
        request.texts,
        truncation="longest_first",
        max_length=max_length,
    )
    return [len(ids) for ids in pairs["input_ids"]]
