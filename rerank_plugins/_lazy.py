"""Public names that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from rerank_plugins.errors import MissingDependencyError


def require(module: str, extra: str | None) -> ModuleType:
    """Import an optional dependency or say which extra brings it.

    Args:
        module: Dotted name of the module, for example ``"langchain_core"``.
        extra: The extra of this distribution that installs it; None is the distribution.

    Returns:
        The imported module.

    Raises:
        MissingDependencyError: If the import fails; the cause is chained, so that a
            package that is installed but broken shows its own error.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        target = "rerank-plugins" if extra is None else f"rerank-plugins[{extra}]"
        message = f'{module!r} cannot be imported ({error}). Install it: pip install "{target}"'
        raise MissingDependencyError(message) from error


def lazy_names(
    package: str, homes: Mapping[str, str], *, needs: tuple[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    Args:
        package: The package's ``__name__``.
        homes: The module that each public name lives in.
        needs: A module that all of them need, and the extra that installs it.
    """

    def get(name: str) -> Any:  # noqa: ANN401  (any public name)
        if name not in homes:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        if needs is not None:
            require(*needs)
        return getattr(importlib.import_module(homes[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
