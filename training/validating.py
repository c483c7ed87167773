"""How well lists are ordered that were never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.evaluation.metrics import per_query
from training.computing import Computer
from training.feeding import Feeder
from training.objective import listwise
from training.packed import KINDS, Packed
from training.settings import Train

_MEASURES: Final = ("nDCG@10", "RR@10")


class Validation:
    """The lists that are held out; the first candidate of each is the one to find."""

    def __init__(self, packed: Packed, feeder: Feeder, sources: Sequence[str]) -> None:
        """Choose them.

        Args:
            packed: All lists.
            feeder: Groups them.
            sources: Names of the files, in the configuration's order.
        """
        own = np.flatnonzero(packed.held_out)
        self._batches = feeder.grouped(own)
        self.lists = np.concatenate(self._batches) if len(own) else own
        self._names = [
            f"{sources[packed.sources[one]]}, {KINDS[packed.kinds[one]]}" for one in self.lists
        ]
        self._packed = packed

    def teacher(self) -> dict[str, Any]:
        """Measure the bi-encoder on the same lists."""
        return self.figures(self._packed.cosines[self.lists].astype(np.float32))

    def scored(self, computer: Computer) -> NDArray[np.float32]:
        """Return a model's scores, shape ``(lists, size)``, in the order of ``lists``."""
        return computer.scores(self._batches)

    def loss(self, scores: NDArray[np.float32], settings: Train) -> float:
        """Return the mean of what training makes small, for scores as in :meth:`scored`."""
        labels, cosines = (
            torch.from_numpy(part[self.lists].astype(np.float32))
            for part in (self._packed.labels, self._packed.cosines)
        )
        return float(listwise(torch.from_numpy(scores), labels, cosines, settings).mean())

    def figures(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        """Measure scores of shape ``(lists, size)``; among equals the relevant one is last."""
        size = scores.shape[1]
        order = np.array([np.lexsort((-np.arange(size), -row)) for row in scores])
        rankings = {str(row): [str(at) for at in one] for row, one in enumerate(order.tolist())}
        values = per_query({row: {"0": 1} for row in rankings}, rankings, _MEASURES)
        names = np.array(self._names)
        found: dict[str, Any] = {"all": {name: float(one.mean()) for name, one in values.items()}}
        for part in sorted(set(self._names)):
            own = names == part
            found[part] = {name: float(one[own].mean()) for name, one in values.items()}
        return found
