"""Whether two systems give the same scores: the first question, before any time is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from benchmarks.speed.systems import Scale

TOLERANCE: Final = 1e-5
"""Of float32 scores, relative where they are above 1."""
_TOP: Final = 10


def agreement(reference: Sequence[float], scores: Sequence[float], scale: Scale) -> dict[str, Any]:
    """Compare scores with the right ones.

    Args:
        reference: Logits in float32.
        scores: What a system gives for the same texts.
        scale: What those are; probabilities are compared with the logits' sigmoids.

    Returns:
        ``largest_difference`` on the system's scale (None if there are not as many scores or not
        all are finite), ``equal`` within :data:`TOLERANCE`, and ``same_top``: the share of the
        best ten that are among its best ten.
    """
    right, got = np.asarray(reference, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if right.shape != got.shape or not np.isfinite(got).all():
        return {"largest_difference": None, "equal": False, "same_top": 0.0}
    expected = 1 / (1 + np.exp(-right)) if scale == "probability" else right
    difference = np.abs(got - expected)
    best, theirs = (set(np.argsort(-of, kind="stable")[:_TOP].tolist()) for of in (expected, got))
    return {
        "largest_difference": float(difference.max()),
        "equal": bool((difference <= TOLERANCE * np.maximum(1, np.abs(expected))).all()),
        "same_top": len(best & theirs) / len(best),
    }


def worst(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the worst of several comparisons."""
    differences = [one["largest_difference"] for one in found]
    return {
        "largest_difference": None if None in differences else max(differences),
        "equal": all(one["equal"] for one in found),
        "same_top": min(one["same_top"] for one in found),
    }
