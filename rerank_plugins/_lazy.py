"""Lazy public names (PEP 562) and optional dependencies."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from rerank_plugins.errors import MissingDependencyError


def require(module: str, extra: str | None) -> ModuleType:
    """Import an optional dependency; the error names the extra that installs it.

    Its cause is chained, so that an installed but broken package shows its own error.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        target = "rerank-plugins" if extra is None else f"rerank-plugins[{extra}]"
        message = f'{module!r} cannot be imported ({error}). Install it: pip install "{target}"'
        raise MissingDependencyError(message) from error


def lazy_names(
    package: str, modules: Mapping[str, str], *, needs: tuple[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``, which import names when first used.

    Args:
        package: The package's ``__name__``.
        modules: The module of each public name.
        needs: A module that all names require, and the extra that installs it.
    """

    def get(name: str) -> Any:  # noqa: ANN401  (any public name)
        if name not in modules:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        if needs is not None:
            require(*needs)
        return getattr(importlib.import_module(modules[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
