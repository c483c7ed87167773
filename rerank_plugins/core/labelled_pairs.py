"""Scores with judgments, as something is fitted on them: checked."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.errors import InvalidInputError

FEWEST_PAIRS: Final = 20
FEWEST_OF_A_LABEL: Final = 5


def labelled_pairs(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return scores as float32 and whether each is of a relevant pair, both checked.

    Raises:
        InvalidInputError: As :meth:`Calibrator.fit` says.
    """
    raw, grades = raw_float32(scores), _numbers("labels", labels, np.float64)
    if raw.ndim != 1 or raw.shape != grades.shape:
        message = (
            f"scores have shape {raw.shape} and labels {grades.shape}; give one label for each "
            "score, both as flat lists."
        )
        raise InvalidInputError(message)
    for name, values in (("scores", raw), ("labels", grades)):
        finite = np.isfinite(values)
        if not finite.all():
            bad = int(np.argmin(finite))
            message = (
                f"{name}[{bad}] is {values[bad]}; all must be finite. Leave out pairs that "
                "were not scored or not judged."
            )
            raise InvalidInputError(message)
    relevant = grades > 0
    positives = int(relevant.sum())
    if len(raw) < FEWEST_PAIRS or min(positives, len(raw) - positives) < FEWEST_OF_A_LABEL:
        message = (
            f"{positives} relevant and {len(raw) - positives} other pairs are too few; give at "
            f"least {FEWEST_PAIRS} pairs with {FEWEST_OF_A_LABEL} of either label."
        )
        raise InvalidInputError(message)
    return raw, relevant


def raw_float32(scores: ArrayLike) -> FloatArray:
    """Return raw scores as float32, so that a score is the same number wherever it comes from.

    Raises:
        InvalidInputError: If they are no numbers.
    """
    with np.errstate(over="ignore"):  # becomes infinite, which the caller is told
        return cast(FloatArray, _numbers("scores", scores, np.float32))


def _numbers(name: str, values: ArrayLike, dtype: type[Any]) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        message = f"{name} must be numbers ({error})."
        raise InvalidInputError(message) from error
