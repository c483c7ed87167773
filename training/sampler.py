"""Sampling of lists: the micro-batches of a step depend on the seed and the step only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.torch.tokenization import PairTemplate, TokenPair
from training.dataset import Dataset, plain_tokenizer
from training.settings import TrainSettings

ListNumbers = NDArray[np.int64]


class Sampler:
    """Micro-batches of training lists, epoch after epoch, each epoch in another order."""

    def __init__(self, dataset: Dataset, seed: int, settings: TrainSettings) -> None:
        """Choose the lists to train on.

        Args:
            dataset: The lists.
            seed: Seed of the orders.
            settings: Sizes of steps, micro-batches and pairs.
        """
        self._dataset = dataset
        self._seed = seed
        self._step_size = settings.lists_per_step
        self._micro_batch_size = settings.lists_per_micro_batch
        self._max_length = settings.max_length
        self._template = PairTemplate.of(plain_tokenizer(), "mini")
        self._lists = np.flatnonzero(~dataset.held_out)
        self._mean_lengths = dataset.lengths.mean(axis=1)
        self._epoch, self._order = -1, self._lists

    def __len__(self) -> int:
        """Return the number of lists to train on."""
        return len(self._lists)

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole steps per epoch; each epoch leaves out other lists."""
        return len(self._lists) // self._step_size

    def step(self, number: int) -> list[ListNumbers]:
        """Return the micro-batches of a step."""
        epoch, position = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(self._lists)
        start = position * self._step_size
        return self.micro_batches(self._order[start : start + self._step_size])

    def micro_batches(self, lists: ListNumbers) -> list[ListNumbers]:
        """Group lists of similar lengths into micro-batches, longest first."""
        ordered = lists[np.argsort(-self._mean_lengths[lists], kind="stable")]
        size = self._micro_batch_size
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def pairs(self, lists: Sequence[int] | ListNumbers) -> list[TokenPair]:
        """Return the token pairs of lists, one list after another."""
        dataset = self._dataset
        return [
            self._pair(dataset.text(int(dataset.queries[number])), dataset.text(int(document)))
            for number in lists
            for document in dataset.documents[number]
        ]

    def _pair(self, query: NDArray[np.uint16], document: NDArray[np.uint16]) -> TokenPair:
        query = query[: self._max_length // 2]
        room = self._max_length - self._template.special_tokens - len(query)
        return self._template.join(query.astype(np.int32), document[:room].astype(np.int32))
