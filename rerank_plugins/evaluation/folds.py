"""Parts of the queries for cross-validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import ConfigurationError, InvalidInputError


def folds_of(queries: int, folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold of each query: random parts whose sizes differ by one at most.

    Raises:
        ConfigurationError: If there are fewer than two folds.
        InvalidInputError: If there are fewer queries than folds.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:  # noqa: PLR2004
        message = f"folds is {folds!r}; it must be an integer of at least 2."
        raise ConfigurationError(message)
    if queries < folds:
        message = (
            f"there are {queries} queries for {folds} folds; label more or ask for fewer folds."
        )
        raise InvalidInputError(message)
    return np.random.default_rng(seed).permutation(queries) % folds
