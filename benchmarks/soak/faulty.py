"""A backend that fails now and then, by a seed, and remembers whom that met."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import Prepared
from rerank_plugins.types import FloatArray, TextPair

LARGE_TOKENS: Final = 512
"""A batch of several pairs runs out of memory only from this size on, as on a real device."""

FAULTS: Final = ("raises", "not a number", "one score few", "out of memory")


class InjectedFault(Exception):
    """Raised on purpose."""


class FaultyModel:
    """The embedded model, real but for a share of its batches.

    Attributes:
        injected: How many faults of each kind there have been.
    """

    scale = TorchCrossEncoder.scale

    def __init__(self, rate: float, seed: int) -> None:
        """Load the model in float32.

        Args:
            rate: Share of the batches that fail, from 0 to 1.
            seed: Makes the faults repeatable for the same batches.
        """
        config = ModelConfig(device="cpu", dtype="float32")
        self._real = TorchCrossEncoder(TorchCrossEncoder.resolve(config))
        self.identity, self.padded = self._real.identity, self._real.padded
        self.batch_tokens = self._real.batch_tokens
        self.injected: Counter[str] = Counter()
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311
        self._guard = threading.Lock()
        self._met: set[str] = set()

    def forget_met(self) -> None:
        """Forget whose batches failed so far."""
        with self._guard:
            self._met.clear()

    def has_met(self, query: str) -> bool:
        """Return whether a batch with this query failed since then."""
        with self._guard:
            return query in self._met

    def prepare(self, items: Sequence[TextPair], max_length: int | None = None) -> list[Prepared]:
        """Tokenise, and keep the query beside the tokens."""
        prepared = self._real.prepare(items, max_length)
        return [
            replace(one, payload=(item.query, one))
            for item, one in zip(items, prepared, strict=True)
        ]

    def run(self, batch: Sequence[Prepared]) -> FloatArray:
        """Score a batch, or fail as the dice have it."""
        scores = self._real.run([one.payload[1] for one in batch])
        if self._random.random() >= self._rate:
            return scores
        kind = self._random.choice(FAULTS)
        if kind == "out of memory" and len(batch) > 1 and not _large(batch):
            kind = "raises"
        with self._guard:
            self.injected[kind] += 1
            self._met.update(one.payload[0] for one in batch)
        if kind == "raises":
            raise InjectedFault(kind)
        if kind == "out of memory":
            raise MemoryError(kind)
        if kind == "one score few":
            return scores[:-1]
        scores[self._random.randrange(len(batch))] = np.nan
        return scores

    def close(self) -> None:
        """Release the model."""
        self._real.close()


def _large(batch: Sequence[Prepared]) -> bool:
    return sum(one.tokens for one in batch) >= LARGE_TOKENS
