"""Calibration: maps from raw scores to probabilities, fitted on labeled pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins._lazy import require
from rerank_plugins.core.ranking import sigmoid
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.types import FloatArray, ModelIdentity

Probabilities = NDArray[np.float64]

_WRONG_WAY: Final = (
    "the labels do not rise with the scores, so that no probability that keeps the order fits "
    "them. Check that scores and labels belong together and that 1 means relevant."
)


@dataclass(frozen=True)
class Platt:
    """``1 / (1 + exp(-(slope * score + intercept)))`` (Platt, 1999)."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        """Check that probabilities rise with scores.

        Raises:
            ConfigurationError: If they do not.
        """
        if not (0 < self.slope < np.inf and np.isfinite(self.intercept)):
            message = (
                f"slope is {self.slope!r} and intercept {self.intercept!r}; both must be finite "
                "and the slope above 0. Fit again."
            )
            raise ConfigurationError(message)

    def __call__(self, scores: FloatArray) -> Probabilities:
        """Return the probability of each score; NaN stays NaN."""
        with np.errstate(over="ignore"):  # the sigmoid of infinity is 1
            logits = scores.astype(np.float64) * self.slope + self.intercept
        return sigmoid(logits)


@dataclass(frozen=True)
class Isotonic:
    """Straight lines between knots, level outside of them.

    Attributes:
        scores: Positions of the knots, rising.
        probabilities: Their values, rising.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the knots rise and that all are probabilities.

        Raises:
            ConfigurationError: If they do not.
        """
        x, y = np.array(self.scores), np.array(self.probabilities)
        sound = len(x) == len(y) > 1 and bool(np.isfinite(x).all())
        if not (
            sound and (np.diff(x) >= 0).all() and (np.diff(y) > 0).all() and 0 <= y[0] < y[-1] <= 1
        ):
            message = (
                "the knots of the isotonic map must be two lists of the same length, at least 2, "
                "of rising finite scores and rising probabilities in 0..1. Fit again."
            )
            raise ConfigurationError(message)

    def __call__(self, scores: FloatArray) -> Probabilities:
        """Return the probability of each score; NaN stays NaN."""
        return np.interp(scores.astype(np.float64), self.scores, self.probabilities)


def fit_platt(scores: FloatArray, relevant: NDArray[np.bool_]) -> Platt:
    """Fit a logistic curve by maximum likelihood.

    Platt's targets, ``(n + 1) / (n + 2)`` and ``1 / (m + 2)`` for n relevant and m other
    pairs, stand in for 1 and 0, so that it is finite where a score separates the two.

    Args:
        scores: Raw scores, shape ``(pairs,)``.
        relevant: Whether each pair is relevant, same shape.

    Raises:
        InvalidInputError: If the curve would not rise.
    """
    linear = require("sklearn.linear_model", None)
    positives = int(relevant.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(relevant) - positives + 2)
    target = np.where(relevant, high, low)
    wide = scores.astype(np.float64)
    center, width = wide.mean(), wide.std()
    if width == 0:
        raise InvalidInputError(_WRONG_WAY)
    # A soft target is the same pair twice, as relevant and as not, with two weights.
    features = np.tile((wide - center) / width, 2)[:, None]
    classes = np.repeat([1, 0], len(wide))
    model = linear.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    model.fit(features, classes, sample_weight=np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0] / width)
    if not slope > 0:
        raise InvalidInputError(_WRONG_WAY)
    return Platt(slope, float(model.intercept_[0] - slope * center))


def fit_isotonic(scores: FloatArray, relevant: NDArray[np.bool_]) -> Isotonic:
    """Fit the best rising steps, and put a knot on the mean score of each step.

    Isotonic regression gives every pair of a step the same probability; lines between the
    centers of steps keep their order instead (Oron and Flournoy, 2017).

    Args:
        scores: Raw scores, shape ``(pairs,)``.
        relevant: Whether each pair is relevant, same shape.

    Raises:
        InvalidInputError: If there is only one step.
    """
    wide = scores.astype(np.float64)
    steps = require("sklearn.isotonic", None).IsotonicRegression(y_min=0.0, y_max=1.0)
    fitted = steps.fit_transform(wide, relevant.astype(np.float64))
    heights, step = np.unique(fitted, return_inverse=True)
    if len(heights) == 1:
        raise InvalidInputError(_WRONG_WAY)
    centers = np.bincount(step, weights=wide) / np.bincount(step)
    return Isotonic(
        # Rounding may put the means of two neighboring scores the wrong way round.
        scores=tuple(np.maximum.accumulate(centers).tolist()),
        probabilities=tuple(heights.tolist()),
    )


FEWEST_PAIRS: Final = 20
FEWEST_OF_A_LABEL: Final = 5


def labeled_pairs(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
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
    with np.errstate(over="ignore"):  # infinite values are refused below
        return cast(FloatArray, _numbers("scores", scores, np.float32))


def _numbers(name: str, values: ArrayLike, dtype: type[Any]) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        message = f"{name} must be numbers ({error})."
        raise InvalidInputError(message) from error


FEWEST_KEPT: Final = 10
"""A precision of fewer pairs than these is no evidence."""

_LEVELS: Final = 1_000


class Threshold(NamedTuple):
    """A threshold with the number of pairs at or above it and the relevant ones among them."""

    threshold: float
    kept: int
    relevant: int

    @property
    def precision(self) -> float:
        """Share of relevant pairs among the kept."""
        return self.relevant / self.kept


@dataclass(frozen=True)
class PrecisionCurve:
    """For every thousandth of precision the lowest threshold that reaches it, and the best.

    Attributes:
        pairs: Number of labeled pairs.
        relevant: Number of relevant ones.
        points: Thresholds and precisions, both rising.
    """

    pairs: int
    relevant: int
    points: tuple[Threshold, ...]

    def __post_init__(self) -> None:
        """Check that the points rise and count what can be.

        Raises:
            ConfigurationError: If they do not.
        """
        last = Threshold(math.nextafter(0, -1), self.pairs, 0)
        sound = bool(self.points) and 0 < self.relevant < self.pairs
        for point in self.points:
            sound = (
                sound
                and last.threshold < point.threshold <= 1
                and last.kept >= point.kept >= FEWEST_KEPT
                and 0 <= point.relevant <= min(point.kept, self.relevant)
                and point.relevant * last.kept >= last.relevant * point.kept
            )
            last = point
        if not sound:
            message = (
                "the precision curve must hold rising thresholds with rising precisions, each "
                f"with its counts of kept (at least {FEWEST_KEPT}) and relevant pairs. Fit again."
            )
            raise ConfigurationError(message)

    @classmethod
    def of(cls, scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> PrecisionCurve:
        """Measure the precision at each score.

        Args:
            scores: Relevance score of each pair, shape ``(pairs,)``, at least 10.
            relevant: Whether it is relevant, same shape.
        """
        thresholds, place = np.unique(scores, return_inverse=True)
        kept = np.cumsum(np.bincount(place)[::-1])[::-1]
        hits = np.cumsum(np.bincount(place, weights=relevant).astype(np.int64)[::-1])[::-1]
        enough = kept >= FEWEST_KEPT
        # In whole thousandths, by integers: nine of ten must max_seq_length 0.9 exactly.
        reached = np.maximum.accumulate(hits[enough] * _LEVELS // kept[enough])
        first = np.flatnonzero(np.diff(reached, prepend=-1))
        best = np.argmax(hits[enough] / kept[enough])
        points = (
            Threshold(float(thresholds[at]), int(kept[at]), int(hits[at]))
            for at in np.union1d(first, best)
        )
        return cls(len(scores), int(relevant.sum()), tuple(points))

    @property
    def best(self) -> Threshold:
        """The threshold with the highest precision."""
        return self.points[-1]

    def threshold_for(self, precision: float) -> float:
        """Return the lowest threshold that reaches a precision.

        Raises:
            ConfigurationError: If it is out of range or is not reached; the message names
                the best that is.
        """
        if (
            isinstance(precision, bool)
            or not isinstance(precision, (int, float))
            or not 0 < precision <= 1
        ):
            message = f"precision is {precision!r}; it must be a number above 0, at most 1."
            raise ConfigurationError(message)
        for point in self.points:
            if point.precision >= precision:
                return point.threshold
        best = self.best
        message = (
            f"no threshold with at least {FEWEST_KEPT} pairs above it reaches a precision of "
            f"{precision} on the {self.pairs} labeled pairs ({self.relevant} relevant). The best "
            f"is {best.precision:.3f} at {best.threshold:.6g}, which keeps {best.kept} pairs. Ask "
            "for less, or label more pairs."
        )
        raise ConfigurationError(message)


Method = Literal["platt", "isotonic"]

_FITS: Final[dict[Method, Callable[[FloatArray, NDArray[np.bool_]], Platt | Isotonic]]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


@dataclass(frozen=True)
class Calibrator:
    """Turns the raw scores of one model into probabilities of relevance; keeps their order.

    A probability is valid for candidates like those it was fitted on: label the candidates of
    your own retriever for your own queries, at the depth you rerank.

    Attributes:
        model: The model whose scores it was fitted on.
        mapping: The fitted function.
        precision_curve: Thresholds and their precision on the fitted pairs.

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
        """Fit on labeled pairs.

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
        raw, relevant = labeled_pairs(scores, labels)
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

    def validate_model(self, model: ModelIdentity) -> None:
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

        Of the labeled pairs with ``relevance_score >= threshold``, at least that share is
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
        write(Path(path), self.model, self.mapping, self.precision_curve)

    @classmethod
    def load(cls, path: str | Path) -> Calibrator:
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            ConfigurationError: If the file cannot be read or anything in it is not as
                :meth:`save` writes it.
        """
        return cls(*read(Path(path)))


def _name(model: ModelIdentity) -> str:
    revision = f" at revision {model.revision}" if model.revision else ""
    weights = f" (weights {model.fingerprint[:12]})" if model.fingerprint else ""
    return f"{model.model!r}{revision}{weights}"


FORMAT: Final = "rerank-plugins calibrator"
VERSION: Final = 1

_MOST_BYTES: Final = 64 * 2**20
"""About two million points of a curve."""

_IDENTITY: Final[dict[str, tuple[type, ...]]] = {
    "model": (str,),
    "revision": (str, type(None)),
    "backend": (str,),
    "dtype": (str,),
    "max_length": (int,),
    "fingerprint": (str,),
}


def write(
    path: Path, model: ModelIdentity, mapping: Platt | Isotonic, curve: PrecisionCurve
) -> None:
    """Write a calibrator.

    Raises:
        ConfigurationError: If the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {name: getattr(model, name) for name in _IDENTITY},
        "method": "platt" if isinstance(mapping, Platt) else "isotonic",
        "mapping": vars(mapping),
        "precision_curve": vars(curve),
    }
    try:
        path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        message = f"the calibrator cannot be written to {path}: {error}"
        raise ConfigurationError(message) from error


def read(path: Path) -> tuple[ModelIdentity, Platt | Isotonic, PrecisionCurve]:
    """Read what :func:`write` wrote.

    Raises:
        ConfigurationError: If the file cannot be read or is not one of these.
    """
    try:
        content = json.loads(_text(path), parse_constant=_refuse)
        return _parts(content)
    except OSError as error:
        message = f"the calibrator cannot be read: {error}"
        raise ConfigurationError(message) from error
    except (ValueError, OverflowError, RecursionError) as error:
        message = f"{path} is not a calibrator that this version can read: {error!s:.600}"
        raise ConfigurationError(message) from error


def _text(path: Path) -> str:
    """Return a file's text; no more of it is read than a calibrator could have."""
    read = bytearray()
    with path.open("rb") as file:
        while len(read) <= _MOST_BYTES and (block := file.read(2**20)):
            read += block
    if len(read) > _MOST_BYTES:
        message = f"it has more than {_MOST_BYTES} bytes."
        raise ValueError(message)
    return read.decode("utf-8")


def _parts(content: object) -> tuple[ModelIdentity, Platt | Isotonic, PrecisionCurve]:
    about = _fields(
        "the file", content, "format", "version", "model", "method", "mapping", "precision_curve"
    )
    if (about["format"], about["version"]) != (FORMAT, VERSION):
        message = (
            f"format is {about['format']!r:.60} and version {about['version']!r:.60}; this version "
            f"reads {FORMAT!r} and {VERSION}."
        )
        raise ConfigurationError(message)
    identity = _fields("model", about["model"], *_IDENTITY)
    for name, types in _IDENTITY.items():
        if type(identity[name]) not in types:
            message = f"model.{name} is {identity[name]!r}, which is of the wrong type."
            raise ConfigurationError(message)
    return ModelIdentity(**identity), _mapping(about["method"], about["mapping"]), _curve(about)


def _mapping(method: object, content: object) -> Platt | Isotonic:
    if method == "platt":
        values = _fields("mapping", content, "slope", "intercept")
        return Platt(**{name: _number(name, value) for name, value in values.items()})
    if method == "isotonic":
        lists = _fields("mapping", content, "scores", "probabilities")
        return Isotonic(
            **{
                name: tuple(_number(name, value) for value in _list(name, values))
                for name, values in lists.items()
            }
        )
    message = f"method is {method!r}; allowed are 'platt' and 'isotonic'."
    raise ConfigurationError(message)


def _curve(about: dict[str, Any]) -> PrecisionCurve:
    curve = _fields("precision_curve", about["precision_curve"], "pairs", "relevant", "points")
    points = []
    for row in _list("points", curve["points"]):
        threshold, kept, relevant = _list("a point", row, length=3)
        points.append(
            Threshold(
                _number("threshold", threshold), _count("kept", kept), _count("relevant", relevant)
            )
        )
    pairs, relevant = (_count(name, curve[name]) for name in ("pairs", "relevant"))
    return PrecisionCurve(pairs, relevant, tuple(points))


def _fields(where: str, content: object, *names: str) -> dict[str, Any]:
    if not isinstance(content, dict) or content.keys() != set(names):
        actual = sorted(content) if isinstance(content, dict) else type(content).__name__
        message = f"{where} must have {', '.join(names)} and nothing else; it has {actual}."
        raise ConfigurationError(message)
    return content


def _list(name: str, content: object, length: int | None = None) -> list[Any]:
    if not isinstance(content, list) or len(content) != (length or len(content)):
        message = (
            f"{name} is {content!r:.60}; it must be a list{f' of {length}' if length else ''}."
        )
        raise ConfigurationError(message)
    return content


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"{name} holds {value!r:.60}; it must be a number."
        raise ConfigurationError(message)
    return float(value)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{name} is {value!r:.60}; it must be an integer."
        raise ConfigurationError(message)
    return value


def _refuse(constant: str) -> float:
    message = f"{constant} is no number of JSON."
    raise ConfigurationError(message)
