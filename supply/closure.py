"""All that an installation with every extra brings, as the environment at hand has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT: Final = "rerank-plugins"
EXTRAS: Final = (
    *("langchain", "llama-index", "mini", "flag", "remote", "cache", "cli", "openvino"),
    *("evaluation", "pandas", "plot", "tracing", "serve", "batch", "ray"),
)
"""What ``rerank-plugins[all]`` is made of; a test compares."""


@dataclass
class Component:
    """One dependency.

    Attributes:
        found: What is installed.
        needs: Names of what it needs itself.
        extras: Our extras that bring it; ``""`` is an installation without any.
    """

    found: Distribution
    needs: set[str] = field(default_factory=set)
    extras: set[str] = field(default_factory=set)


def closure() -> dict[str, Component]:
    """Return every dependency by its normalised name, ourselves included.

    Raises:
        PackageNotFoundError: If one is not installed; it names it.
    """
    found: dict[str, Component] = {}
    for extra in ("", *EXTRAS):
        _follow(found, extra)
    return dict(sorted(found.items()))


def _follow(found: dict[str, Component], ours: str) -> None:
    """Add what one of our extras brings."""
    seen: set[tuple[str, str]] = set()
    waiting = [(PROJECT, ours)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        one = found.setdefault(name, Component(_installed(name)))
        one.extras.add(ours)
        for needed in _needs(name, extra):
            other = canonicalize_name(needed.name)
            one.needs.add(other)
            waiting += [(other, asked) for asked in ("", *sorted(needed.extras))]


@cache
def _needs(name: str, extra: str) -> list[Requirement]:
    """Return what applies here of what a package requires with one of its extras."""
    return [
        one
        for one in _required(name)
        if one.marker is None or one.marker.evaluate({"extra": extra})
    ]


@cache
def _required(name: str) -> list[Requirement]:
    return [Requirement(line) for line in _installed(name).requires or ()]


@cache
def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        message = f"{name} is not installed here; `make install` installs everything."
        raise PackageNotFoundError(message) from None
