"""The exception hierarchy and imports of optional dependencies."""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path

import pytest

from rerank_plugins import errors
from rerank_plugins._lazy import require
from rerank_plugins.errors import (
    ConfigurationError,
    InferenceError,
    InvalidInputError,
    InvalidScoresError,
    MissingDependencyError,
    ModelLoadError,
    RerankError,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception)
]


def test_every_error_is_a_rerank_error() -> None:
    assert all(issubclass(cls, RerankError) for cls in CLASSES)
    assert not issubclass(ModelLoadError, InferenceError)
    assert issubclass(InvalidScoresError, InferenceError)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (ConfigurationError, ValueError),
        (InvalidInputError, ValueError),
        (MissingDependencyError, ImportError),
    ],
)
def test_errors_can_be_caught_as_builtin_exceptions(
    cls: type[RerankError], builtin: type[Exception]
) -> None:
    error = cls("because")
    with pytest.raises(builtin, match="because"):
        raise error


def test_the_tree_in_the_docstring_matches_the_classes() -> None:
    """Each class is listed once, below its parent."""
    entries: list[tuple[int, str]] = [
        (match.start(1), match.group(1))
        for line in (errors.__doc__ or "").splitlines()
        if (match := re.search(r"(?:^ {4}|── )(\w+Error)\b", line))
    ]
    assert sorted(name for _, name in entries) == sorted(cls.__name__ for cls in CLASSES)
    for position, (depth, name) in enumerate(entries[1:], start=1):
        parent = next(other for level, other in reversed(entries[:position]) if level < depth)
        assert issubclass(getattr(errors, name), getattr(errors, parent)), name


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_errors_can_be_pickled(cls: type[RerankError]) -> None:
    copied = pickle.loads(pickle.dumps(cls("because")))  # noqa: S301
    assert type(copied) is cls
    assert str(copied) == "because"


def test_require_returns_the_module() -> None:
    assert require("json", None) is json


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("langchain", 'pip install "rerank-plugins[langchain]"'),
        (None, 'pip install "rerank-plugins"'),
    ],
)
def test_the_error_for_a_missing_module_names_its_extra(extra: str | None, command: str) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        require("no_such_module_anywhere", extra)
    assert command in str(caught.value)
    assert "'no_such_module_anywhere' cannot be imported" in str(caught.value)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_the_error_of_a_broken_module_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_dependency.py").write_text("raise ImportError('libx.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"libx\.so is missing") as caught:
        require("broken_dependency", "flag")
    assert str(caught.value.__cause__) == "libx.so is missing"
    assert "broken_dependency" not in sys.modules
