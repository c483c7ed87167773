"""Calibrators as JSON files: written plainly, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from rerank_plugins.core.calibration_maps import Isotonic, Platt
from rerank_plugins.core.precision_curve import PrecisionCurve, Threshold
from rerank_plugins.core.types import ModelIdentity
from rerank_plugins.errors import ConfigurationError

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
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        message = f"{where} must have {', '.join(names)} and nothing else; it has {found}."
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
