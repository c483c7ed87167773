"""How long a setup takes on this machine: measured, then predicted for any depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins._optional import require
from rerank_plugins.errors import InvalidInputError

_LEAST: Final = 3
"""Observations that a fit needs: it has three parameters."""


class Observation(NamedTuple):
    """One ranking that was timed.

    Attributes:
        pairs: How many documents.
        tokens: How many tokens all of them had.
        seconds: How long it took.
    """

    pairs: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """``seconds = overhead + pairs * a_pair + tokens * a_token``, and how far that was off.

    Attributes:
        overhead_s: Seconds that a request takes whatever its size.
        pair_s: Seconds a pair.
        token_s: Seconds a token.
        ratios: Measured by predicted time of each observation, for the spread.
    """

    overhead_s: float
    pair_s: float
    token_s: float
    ratios: NDArray[np.float64]

    def seconds(self, pairs: ArrayLike, tokens: ArrayLike) -> NDArray[np.float64]:
        """Predict; arrays of any one shape."""
        count, size = np.asarray(pairs, np.float64), np.asarray(tokens, np.float64)
        return self.overhead_s + self.pair_s * count + self.token_s * size


def fit(observations: Sequence[Observation]) -> Cost:
    """Fit a cost model: non-negative least squares of relative errors.

    Fitted twice, the second time without the observations that are far slower than the first
    fit says: a machine that did something else for a moment.

    Raises:
        InvalidInputError: If there are fewer than three observations.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    if len(observations) < _LEAST:
        message = f"there are {len(observations)} timings; a cost model needs at least {_LEAST}."
        raise InvalidInputError(message)
    table = np.array(observations, dtype=np.float64)
    first = _fit(table, np.ones(len(table), dtype=np.bool_))
    spread = np.median(np.abs(first.ratios - np.median(first.ratios)))
    calm = first.ratios <= np.median(first.ratios) + max(5 * spread, 0.05)
    return _fit(table, calm) if calm.sum() >= _LEAST else first


def _fit(table: NDArray[np.float64], used: NDArray[np.bool_]) -> Cost:
    pairs, tokens, seconds = table.T
    terms = np.stack([np.ones_like(pairs), pairs, tokens], axis=1)
    relative = (terms / seconds[:, None])[used]
    # Of like size, so that the solver's tolerance means the same for each.
    scale = np.maximum(relative.max(axis=0), np.finfo(np.float64).tiny)
    solved, _ = require("scipy.optimize", "evaluation").nnls(relative / scale, np.ones(used.sum()))
    overhead, pair, token = (solved / scale).tolist()
    ratios = seconds / (terms @ (solved / scale))
    # The fit of relative errors is pulled to the fast ones; the middle observation is to be right.
    middle = float(np.median(ratios[used]))
    return Cost(overhead * middle, pair * middle, token * middle, ratios / middle)
