"""Requests: queries of real sets with the bi-encoder's best texts for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.retrieval import search
from rerank_plugins.evaluation import read_beir
from rerank_plugins.evaluation.datasets import Passage

SEED: Final = 17
QUERIES: Final = 40
_LONG_WORDS: Final = 380
"""About 512 tokens of English."""


@dataclass(frozen=True)
class TextSet:
    """A source of texts.

    Attributes:
        about: A description.
        folder: Name of a retrieval set in BEIR layout.
        joined: Whether neighbors with the same title are joined to long documents.
    """

    about: str
    folder: str
    joined: bool = False


TEXT_SETS: Final = {
    "nq": TextSet("search queries, Wikipedia passages", "nq-gold"),
    "faq": TextSet("questions on software, paraphrased", "stackfaq"),
    "long": TextSet(
        "questions, Wikipedia articles truncated at about 512 tokens", "squad-dev", joined=True
    ),
}


class Request(NamedTuple):
    """A query and its candidates, best first."""

    query: str
    texts: list[str]


def requests(
    name: str, sets: Path, cache: Path | None = None, *, max_texts: int | None = None
) -> list[Request]:
    """Return queries with their best 1000 texts of a set.

    Args:
        name: One of :data:`TEXT_SETS`.
        sets: Folder of the sets.
        cache: Folder that stores the bi-encoder's rankings, or None.
        max_texts: Use only the first texts of the set, to be quick; None is all.
    """
    text_set = TEXT_SETS[name]
    data = read_beir(sets / text_set.folder)
    passages = data.passages[:max_texts]
    joined = text_set.joined
    texts = join_passages(passages) if joined else [passage.content for passage in passages]
    texts = list(dict.fromkeys(texts))  # every system must score every text
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    queries = rng.sample(sorted(data.queries.values()), min(QUERIES, len(data.queries)))
    stored = cache and cache / f"{name}-{len(texts)}.npy"
    if stored and stored.is_file():
        best = np.load(stored)
    else:
        best = search("bi-encoder", texts, queries, 1_000)[0]
        if stored:
            np.save(stored, best)
    return [
        Request(query, [texts[position] for position in row])
        for query, row in zip(queries, best, strict=True)
    ]


def join_passages(passages: Sequence[Passage]) -> list[str]:
    """Join neighbors with the same title until each text has about 512 tokens."""
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
    """Return the tokens of each pair, truncated and without padding."""
    pairs = tokenizer(
        [request.query] * len(request.texts),
        request.texts,
        truncation="longest_first",
        max_length=max_length,
    )
    return [len(ids) for ids in pairs["input_ids"]]
