"""Cross-encoders and bi-encoders on a CPU through OpenVINO, in float32, bfloat16 or int8."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

from rerank_plugins._lazy import require

_DISABLED: Final = {"CI": "true", "NNCF_CI": "1"}
"""Both packages read these variables when they are imported, and then start no telemetry."""


def import_without_telemetry(package: str) -> ModuleType:
    """Import a package of the extra ``openvino`` with its telemetry turned off.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    previous = {name: os.environ.get(name) for name in _DISABLED}
    os.environ.update(_DISABLED)
    try:
        return require(package, "openvino")
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Before any module of this package imports it: its telemetry starts at import.
import_without_telemetry("openvino")
