"""Temporary: replaced by the branch that writes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.policy import Fusion
from rerank_plugins.core.protocols import FloatArray


def fuse(
    raw: FloatArray, first_stage: NDArray[np.float64] | None, method: Fusion, weight: float
) -> NDArray[np.float64]:
    """Fuse."""
    raise NotImplementedError
