"""The one way to import an optional dependency."""

from __future__ import annotations

import importlib
from types import ModuleType

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
