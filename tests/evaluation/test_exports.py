"""Public names of the package."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from rerank_plugins import evaluation


def test_no_module_hides_a_public_name() -> None:
    """Importing a submodule sets it as an attribute of the package, before lazy names."""
    for module in pkgutil.iter_modules(evaluation.__path__):
        importlib.import_module(f"{evaluation.__name__}.{module.name}")
    assert list(evaluation.__all__) == sorted(evaluation.__all__)
    for name in evaluation.__all__:
        assert not isinstance(getattr(evaluation, name), ModuleType)
