"""Data-parallel gradients: each micro-batch is computed by one thread of a fixed pool.

With one thread per core and a micro-batch per thread, threads wait for each other once per step
instead of at every product. Gradients are added in the order of the micro-batches, so the result
does not depend on the number or the speed of the threads.
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

from training.dataset import Dataset
from training.network import listwise_loss, score_pairs
from training.sampler import ListNumbers, Sampler
from training.settings import TrainSettings

_MALLOPT: Final = {-1: 2**31 - 1, -3: 2**30, -2: 2**26}
"""glibc: keep freed memory (trim threshold), also of large blocks (mmap threshold), and grow the
heap by 64 MB (top pad)."""


class StepGradients(NamedTuple):
    """Result of a step.

    Attributes:
        gradients: Gradients of the mean loss, one per trained weight.
        losses: Loss of each list in the order of the micro-batches, shape ``(lists,)``.
        tokens: Number of tokens of all pairs.
    """

    gradients: list[torch.Tensor]
    losses: NDArray[np.float32]
    tokens: int


class GradientWorkers:
    """Threads that compute over one model; weights may change only between calls."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        dataset: Dataset,
        sampler: Sampler,
        settings: TrainSettings,
    ) -> None:
        """Start the threads: one per core for the CPU, one for another device.

        Args:
            model: The cross-encoder.
            dataset: The lists.
            sampler: Builds the token pairs.
            settings: Settings of the loss.
        """
        self._model = model
        self._dataset = dataset
        self._sampler = sampler
        self._settings = settings
        workers = torch.get_num_threads() if model.device.type == "cpu" else 1
        if workers > 1:
            torch.set_num_threads(1)
            _keep_freed_memory()
        self._threads = ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(1,)
        )

    def gradients(
        self, micro_batches: Sequence[ListNumbers], weights: Sequence[torch.Tensor]
    ) -> StepGradients:
        """Compute the gradients of a step.

        Args:
            micro_batches: Lists of the step.
            weights: Weights to differentiate by.
        """
        lists = sum(map(len, micro_batches))
        results = list(
            self._threads.map(lambda batch: self._backward(batch, weights, lists), micro_batches)
        )
        total, *others = [gradients for gradients, _, _ in results]
        for gradients in others:
            torch._foreach_add_(total, gradients)
        losses = np.concatenate([losses for _, losses, _ in results])
        return StepGradients(total, losses, sum(tokens for _, _, tokens in results))

    def scores(self, micro_batches: Sequence[ListNumbers]) -> NDArray[np.float32]:
        """Score lists without a gradient; shape ``(lists, size)``, one batch after another."""
        return np.concatenate(list(self._threads.map(self._forward, micro_batches)))

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown()

    def _backward(
        self, lists: ListNumbers, weights: Sequence[torch.Tensor], step_lists: int
    ) -> tuple[list[torch.Tensor], NDArray[np.float32], int]:
        pairs = self._sampler.pairs(lists)
        scores = score_pairs(self._model, pairs).view(len(lists), -1)
        labels, cosines = (
            torch.from_numpy(values[lists].astype(np.float32)).to(scores.device)
            for values in (self._dataset.labels, self._dataset.cosines)
        )
        losses = listwise_loss(scores, labels, cosines, self._settings)
        gradients = list(torch.autograd.grad(losses.sum() / step_lists, weights))
        tokens = sum(len(pair.ids) for pair in pairs)
        return gradients, losses.detach().cpu().numpy(), tokens

    @torch.no_grad()
    def _forward(self, lists: ListNumbers) -> NDArray[np.float32]:
        scores = score_pairs(self._model, self._sampler.pairs(lists))
        result: NDArray[np.float32] = scores.view(len(lists), -1).cpu().numpy()
        return result


def _keep_freed_memory() -> None:
    """Keep freed memory in the process, where glibc would map the pages again at every step."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is None:  # a C library other than glibc
            return
        for option, value in _MALLOPT.items():
            mallopt(option, value)
