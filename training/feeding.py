"""Which lists a step trains on: a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.torch.pairs import PairTemplate, TokenPair
from training.packed import Packed
from training.writing import plain_tokenizer

Lists = NDArray[np.int64]


class Feeder:
    """Hands out lists, epoch after epoch, each in another order."""

    def __init__(self, packed: Packed, seed: int, lists: int, group: int, max_length: int) -> None:
        """Begin.

        Args:
            packed: The lists.
            seed: Of the orders.
            lists: Of a step.
            group: Of a micro-batch.
            max_length: Most tokens of a pair.
        """
        self._packed = packed
        self._seed = seed
        self._lists = lists
        self._group = group
        self._most = max_length
        self._template = PairTemplate.of(plain_tokenizer(), "mini")
        self._own = np.flatnonzero(~packed.held_out)
        self._mean_lengths = packed.lengths.mean(axis=1)
        self._epoch, self._order = -1, self._own

    def __len__(self) -> int:
        """Return the number of lists to train on."""
        return len(self._own)

    @property
    def steps(self) -> int:
        """How many steps an epoch has; the lists left over come in another epoch."""
        return len(self._own) // self._lists

    def step(self, number: int) -> list[Lists]:
        """Return the micro-batches of a step: lists of like lengths together."""
        epoch, place = divmod(number, self.steps)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(self._own)
        return self.grouped(self._order[place * self._lists : (place + 1) * self._lists])

    def grouped(self, lists: Lists) -> list[Lists]:
        """Part lists into micro-batches, longest first."""
        ordered = lists[np.argsort(-self._mean_lengths[lists], kind="stable")]
        return [
            ordered[start : start + self._group] for start in range(0, len(ordered), self._group)
        ]

    def pairs(self, lists: Sequence[int] | Lists) -> list[TokenPair]:
        """Return the token pairs of lists, one list after another."""
        packed = self._packed
        return [
            self._pair(packed.text(int(packed.queries[one])), packed.text(int(document)))
            for one in lists
            for document in packed.documents[one]
        ]

    def _pair(self, query: NDArray[np.uint16], document: NDArray[np.uint16]) -> TokenPair:
        query = query[: self._most // 2]
        room = self._most - self._template.special_tokens - len(query)
        return self._template.join(query.astype(np.int32), document[:room].astype(np.int32))
