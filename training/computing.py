"""Losses, gradients and scores of micro-batches, each computed by one of several threads.

One thread a core, each with a micro-batch of its own, waits for the others once a step instead
of at every product. Gradients are added in the micro-batches' order, so that the result does not
depend on which thread was quicker.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from training.feeding import Feeder, Lists
from training.network import scored
from training.objective import listwise
from training.packed import Packed
from training.settings import Train

_MALLOPT: Final = {-1: 2**31 - 1, -3: 2**30, -2: 2**26}
"""glibc: freed memory is kept, also that of large results, and grows by 64 MB."""


class StepLoss(NamedTuple):
    """What a step computed.

    Attributes:
        gradients: Of the mean loss, one a trained weight.
        losses: Of each list, shape ``(lists,)``, in the order of the micro-batches.
        tokens: How many were read.
    """

    gradients: list[torch.Tensor]
    losses: NDArray[np.float32]
    tokens: int


class Computer:
    """Computes over one model; the weights may change between its calls only."""

    def __init__(self, model: Any, packed: Packed, feeder: Feeder, settings: Train) -> None:  # noqa: ANN401
        """Start the threads: one a core for the CPU, one for another device.

        Args:
            model: The cross-encoder.
            packed: The lists.
            feeder: Makes their pairs.
            settings: Of the loss.
        """
        self._model = model
        self._packed = packed
        self._feeder = feeder
        self._settings = settings
        workers = torch.get_num_threads() if model.device.type == "cpu" else 1
        if workers > 1:
            torch.set_num_threads(1)
            _keep_memory()
        self._threads = ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(1,)
        )

    def step(self, batches: Sequence[Lists], weights: Sequence[torch.Tensor]) -> StepLoss:
        """Compute a step's gradients.

        Args:
            batches: Its micro-batches.
            weights: By which the loss is derived.
        """
        lists = sum(map(len, batches))
        parts = list(self._threads.map(lambda one: self._derived(one, weights, lists), batches))
        total, *others = [gradients for gradients, _, _ in parts]
        for gradients in others:
            torch._foreach_add_(total, gradients)
        losses = np.concatenate([losses for _, losses, _ in parts])
        return StepLoss(total, losses, sum(tokens for _, _, tokens in parts))

    def scores(self, batches: Sequence[Lists]) -> NDArray[np.float32]:
        """Score lists without a gradient; shape ``(lists, size)``, one batch after another."""
        return np.concatenate(list(self._threads.map(self._only_scored, batches)))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _derived(
        self, lists: Lists, weights: Sequence[torch.Tensor], all_lists: int
    ) -> tuple[list[torch.Tensor], NDArray[np.float32], int]:
        pairs = self._feeder.pairs(lists)
        shape = (len(lists), -1)
        scores = scored(self._model, pairs).view(shape)
        labels, cosines = (
            torch.from_numpy(part[lists].astype(np.float32)).to(scores.device)
            for part in (self._packed.labels, self._packed.cosines)
        )
        losses = listwise(scores, labels, cosines, self._settings)
        gradients = list(torch.autograd.grad(losses.sum() / all_lists, weights))
        return gradients, losses.detach().cpu().numpy(), sum(len(one.ids) for one in pairs)

    @torch.no_grad()
    def _only_scored(self, lists: Lists) -> NDArray[np.float32]:
        scores = scored(self._model, self._feeder.pairs(lists))
        found: NDArray[np.float32] = scores.view(len(lists), -1).cpu().numpy()
        return found


def _keep_memory() -> None:
    """Let freed memory be used again, instead of being fetched page by page at every step."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is None:  # a C library other than glibc
            return
        for option, value in _MALLOPT.items():
            mallopt(option, value)
