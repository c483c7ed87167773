"""Requests made of real text: questions and passages of the data set that ships with us."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from benchmarks.environment import BUNDLED
from rerank_plugins.evaluation.datasets import read_beir

Size = Literal["sentence", "passage"]

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_SHORTEST: Final = 20


@dataclass(frozen=True)
class Work:
    """One request: a query and its documents."""

    query: str
    documents: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The query with each document."""
        return [(self.query, document) for document in self.documents]


@cache
def queries() -> tuple[str, ...]:
    """Return the questions."""
    return tuple(read_beir(BUNDLED).queries.values())


@cache
def texts(size: Size) -> tuple[str, ...]:
    """Return distinct passages (about 170 tokens each) or their sentences (about 35)."""
    passages = [passage.text for passage in read_beir(BUNDLED).passages]
    if size == "passage":
        return tuple(dict.fromkeys(passages))
    sentences = (one for passage in passages for one in _SENTENCE_END.split(passage))
    return tuple(dict.fromkeys(one for one in sentences if len(one) > _SHORTEST))


def make_work(count: int, documents: int, size: Size, seed: int = 0) -> list[Work]:
    """Return requests with ``documents`` distinct documents each."""
    rng = random.Random(seed)  # noqa: S311
    return [
        Work(rng.choice(queries()), tuple(rng.sample(texts(size), documents))) for _ in range(count)
    ]


def pair_count(work: Sequence[Work]) -> int:
    """Return how many pairs the requests hold."""
    return sum(len(one.documents) for one in work)
