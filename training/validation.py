"""Validation on held-out lists: ranking metrics, and a temperature that calibrates scores.

A temperature divides scores and so keeps the meaning of 0, unlike other calibration maps. Its
calibration error is measured on lists that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins._lazy import require
from rerank_plugins.core.ranking import sigmoid
from rerank_plugins.evaluation.calibration import brier_score, expected_calibration_error
from rerank_plugins.evaluation.metrics import folds_of, per_query
from training.dataset import KINDS, Dataset
from training.gradient_workers import GradientWorkers
from training.network import listwise_loss
from training.sampler import Sampler
from training.settings import TrainSettings

_MEASURES: Final = ("nDCG@10", "RR@10")
_LOG_BOUNDS: Final = (-3.0, 3.0)


class Validation:
    """Held-out lists; the first candidate of each is the relevant one.

    Attributes:
        lists: Numbers of the lists in the dataset, in the order of all scores.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, sources: Sequence[str]) -> None:
        """Select the held-out lists.

        Args:
            dataset: All lists.
            sampler: Groups lists into micro-batches.
            sources: Names of the sources, in the configuration's order.
        """
        held_out = np.flatnonzero(dataset.held_out)
        self._micro_batches = sampler.micro_batches(held_out)
        self.lists = np.concatenate(self._micro_batches) if len(held_out) else held_out
        self._names = [
            f"{sources[dataset.sources[number]]}, {KINDS[dataset.kinds[number]]}"
            for number in self.lists
        ]
        self._dataset = dataset

    def scores(self, workers: GradientWorkers) -> NDArray[np.float32]:
        """Return a model's scores of the lists, shape ``(lists, size)``."""
        return workers.scores(self._micro_batches)

    def loss(self, scores: NDArray[np.float32], settings: TrainSettings) -> float:
        """Return the mean loss of scores of shape ``(lists, size)``."""
        labels, cosines = (
            torch.from_numpy(values[self.lists].astype(np.float32))
            for values in (self._dataset.labels, self._dataset.cosines)
        )
        return float(listwise_loss(torch.from_numpy(scores), labels, cosines, settings).mean())

    def metrics(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        """Measure scores of shape ``(lists, size)``; with equal scores the relevant one is last.

        Returns:
            nDCG@10 and MRR@10 of all lists and of each source and kind.
        """
        size = scores.shape[1]
        orders = np.array([np.lexsort((-np.arange(size), -row)) for row in scores])
        rankings = {
            str(number): [str(candidate) for candidate in order]
            for number, order in enumerate(orders.tolist())
        }
        values = per_query({number: {"0": 1} for number in rankings}, rankings, _MEASURES)
        names = np.array(self._names)
        metrics: dict[str, Any] = {
            "all": {measure: float(part.mean()) for measure, part in values.items()}
        }
        for name in sorted(set(self._names)):
            rows = names == name
            metrics[name] = {measure: float(part[rows].mean()) for measure, part in values.items()}
        return metrics

    def teacher_metrics(self) -> dict[str, Any]:
        """Measure the bi-encoder on the same lists."""
        return self.metrics(self._dataset.cosines[self.lists].astype(np.float32))


def fit_temperature(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the temperature of the lowest cross-entropy (Guo et al., 2017), from 0.05 to 20.

    Args:
        scores: Logits, shape ``(pairs,)``.
        labels: Whether they are relevant, same shape.
    """
    signs = np.where(labels, -1.0, 1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, signs * scores / np.exp(log_temperature)).mean())

    optimize = require("scipy.optimize", "evaluation")
    return float(np.exp(optimize.minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded").x))


def calibration(scores: NDArray[np.float32], seed: int) -> dict[str, Any]:
    """Fit a temperature, and measure it with two-fold cross-validation.

    Args:
        scores: Scores of held-out lists whose first candidate is the relevant one, shape
            ``(lists, size)``.
        seed: Seed of the split.
    """
    pairs = scores.astype(np.float64)
    labels = np.zeros(pairs.shape, dtype=bool)
    labels[:, 0] = True
    folds = folds_of(len(pairs), 2, seed)
    calibrated = np.empty_like(pairs)
    for fold in (0, 1):
        test = folds == fold
        temperature = fit_temperature(pairs[~test].ravel(), labels[~test].ravel())
        calibrated[test] = sigmoid(pairs[test] / temperature)
    plain = sigmoid(pairs)
    return {
        "temperature": fit_temperature(pairs.ravel(), labels.ravel()),
        "lists": len(pairs),
        "pairs": pairs.size,
        "calibration_error": expected_calibration_error(calibrated.ravel(), labels.ravel()),
        "brier": brier_score(calibrated.ravel(), labels.ravel()),
        "calibration_error_at_1": expected_calibration_error(plain.ravel(), labels.ravel()),
        "brier_at_1": brier_score(plain.ravel(), labels.ravel()),
    }
