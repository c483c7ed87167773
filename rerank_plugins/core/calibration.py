"""Scores that can be read as probabilities, fitted on the user's own labelled pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.core import calibration_file
from rerank_plugins.core.calibration_maps import (
    Isotonic,
    Platt,
    Probabilities,
    fit_isotonic,
    fit_platt,
)
from rerank_plugins.core.labelled_pairs import labelled_pairs, raw_float32
from rerank_plugins.core.precision_curve import PrecisionCurve
from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.core.types import ModelIdentity
from rerank_plugins.errors import ConfigurationError

Method = Literal["platt", "isotonic"]

_FITS: Final[dict[Method, Callable[[FloatArray, NDArray[np.bool_]], Platt | Isotonic]]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


@dataclass(frozen=True)
class Calibrator:
    """Turns the raw scores of one model into probabilities of relevance; keeps their order.

    A probability holds for candidates like those it was fitted on: label what your own first
    stage finds for your own queries, at the depth you rerank.

    Attributes:
        model: The model whose scores it was fitted on.
        mapping: The fitted function.
        precision_curve: Which thresholds reach which precision on the fitted pairs.

    Example:
        >>> import numpy as np
        >>> model = ModelIdentity("mini", None, "torch", "float32", 512)
        >>> scores, labels = np.linspace(-5, 5, 40), np.repeat([0, 1], 20)
        >>> labels[[15, 25]] = 1, 0
        >>> calibrator = Calibrator.fit(scores, labels, model=model)
        >>> calibrator([-3.0, 0.0, 3.0]).round(2).tolist()
        [0.06, 0.5, 0.94]
    """

    model: ModelIdentity
    mapping: Platt | Isotonic
    precision_curve: PrecisionCurve

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        *,
        model: ModelIdentity,
        method: Method = "platt",
    ) -> Calibrator:
        """Fit on labelled pairs.

        Args:
            scores: ``raw_score`` of each pair, shape ``(pairs,)``.
            labels: Its judgment, same shape: relevant if above 0, so that grades may be
                given as they are.
            model: Whose scores they are: ``Ranking.model``.
            method: ``"platt"``, a logistic curve of two parameters, good from a few dozen
                pairs on; or ``"isotonic"``, any rising curve, for a thousand and more.

        Raises:
            ConfigurationError: If the method is unknown.
            InvalidInputError: If scores or labels are not finite numbers, not as many, fewer
                than 20, or fewer than 5 of either label; or if labels do not rise with scores.
            MissingDependencyError: If scikit-learn is not installed.
        """
        if method not in _FITS:
            message = f"method is {method!r}; allowed are {', '.join(_FITS)}."
            raise ConfigurationError(message)
        raw, relevant = labelled_pairs(scores, labels)
        mapping = _FITS[method](raw, relevant)
        return cls(model, mapping, PrecisionCurve.of(mapping(raw), relevant))

    def __call__(self, raw_scores: ArrayLike) -> Probabilities:
        """Return the probability of relevance of each raw score.

        Args:
            raw_scores: Scores of :attr:`model`, any shape; read as float32.

        Returns:
            Float64 in 0..1 of the same shape, never falling where scores rise. NaN stays NaN.
        """
        return self.mapping(raw_float32(raw_scores))

    def check(self, model: ModelIdentity) -> None:
        """Refuse another model's scores.

        Models are the same if the hashes of their weights are, or, where one is not known,
        if name and revision are. Data type, backend and device may differ.

        Raises:
            ConfigurationError: If it is another model.
        """
        if self.model.fingerprint and model.fingerprint:
            same = self.model.fingerprint == model.fingerprint
        else:
            same = (self.model.model, self.model.revision) == (model.model, model.revision)
        if not same:
            message = (
                f"the calibrator was fitted on scores of {_name(self.model)}, not of "
                f"{_name(model)}. Fit one on this model's scores."
            )
            raise ConfigurationError(message)

    def threshold_for(self, precision: float = 0.9) -> float:
        """Return the lowest threshold that reaches a precision on the fitted pairs.

        Of the labelled pairs with ``relevance_score >= threshold``, at least that share is
        relevant. Thresholds above which fewer than ten pairs lie are not considered. New
        pairs will be a little worse than those it was chosen on;
        :func:`rerank_plugins.evaluation.calibration.cross_validated` measures how much.

        Args:
            precision: Above 0, at most 1.

        Raises:
            ConfigurationError: If it is out of range, or no threshold reaches it.
        """
        return self.precision_curve.threshold_for(precision)

    def save(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            ConfigurationError: If the file cannot be written.
        """
        calibration_file.write(Path(path), self.model, self.mapping, self.precision_curve)

    @classmethod
    def load(cls, path: str | Path) -> Calibrator:
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            ConfigurationError: If the file cannot be read or anything in it is not as
                :meth:`save` writes it.
        """
        return cls(*calibration_file.read(Path(path)))


def _name(model: ModelIdentity) -> str:
    revision = f" at revision {model.revision}" if model.revision else ""
    weights = f" (weights {model.fingerprint[:12]})" if model.fingerprint else ""
    return f"{model.model!r}{revision}{weights}"
