"""Importing OpenVINO and NNCF so that they report their use to nobody."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

from rerank_plugins._optional import require

_SILENT: Final = {"CI": "true", "NNCF_CI": "1"}
"""What keeps both packages' telemetry from starting; they look when they are imported."""


def silent_import(name: str) -> ModuleType:
    """Import a package of the extra ``openvino`` with its telemetry off.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    before = {name: os.environ.get(name) for name in _SILENT}
    os.environ.update(_SILENT)
    try:
        return require(name, "openvino")
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value
