"""From float32 to int8: NNCF's post-training quantisation, without its reports to a server."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

import openvino

from rerank_plugins._optional import require

SETTINGS: Final = {
    "model_type": "transformer",
    "preset": "mixed",
    "fast_bias_correction": True,
}
"""Weights symmetric per channel, activations as their signs need, SmoothQuant's default."""

_SILENT: Final = {"CI": "true", "NNCF_CI": "1"}
"""What keeps NNCF's telemetry from starting; it looks when it is imported."""


def quantise(model: openvino.Model, batches: Sequence[Sequence[Any]]) -> openvino.Model:
    """Return the model in int8.

    Args:
        model: In float32; changed.
        batches: Its inputs for each calibration text.
    """
    nncf = silent_nncf()
    with _quiet():
        quantised: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType(SETTINGS["model_type"]),
            preset=nncf.QuantizationPreset(SETTINGS["preset"]),
            fast_bias_correction=SETTINGS["fast_bias_correction"],
            subset_size=len(batches),
        )
    return quantised


def silent_nncf() -> ModuleType:
    """Import NNCF with its telemetry off.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    before = {name: os.environ.get(name) for name in _SILENT}
    os.environ.update(_SILENT)
    try:
        return require("nncf", "openvino")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's log and progress bars off the screen."""
    console = require("rich", "openvino").get_console()
    log = logging.getLogger("nncf")
    quiet, level = console.quiet, log.level
    console.quiet = True
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        console.quiet = quiet
        log.setLevel(level)
