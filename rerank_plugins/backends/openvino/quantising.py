"""From float32 to int8: NNCF's post-training quantisation, without its reports to a server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import openvino

from rerank_plugins._optional import require
from rerank_plugins.backends.openvino._silent import silent_import

SETTINGS: Final = {
    "model_type": "transformer",
    "preset": "mixed",
    "fast_bias_correction": True,
    "ranges": "minmax",
}
"""Weights symmetric per channel, activations as their signs need, SmoothQuant's default, and
ranges as wide as anything seen: NNCF's mean of each text's range cuts off what counts."""


def quantise(
    model: openvino.Model, batches: Sequence[Sequence[Any]], exact: Sequence[str]
) -> openvino.Model:
    """Return the model in int8.

    Args:
        model: In float32; changed.
        batches: Its inputs for each calibration text.
        exact: Patterns of names that stay as they are.
    """
    nncf = silent_import("nncf")
    estimators = require("nncf.quantization.range_estimator", "openvino")
    with _quiet():
        quantised: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType(SETTINGS["model_type"]),
            preset=nncf.QuantizationPreset(SETTINGS["preset"]),
            fast_bias_correction=SETTINGS["fast_bias_correction"],
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(patterns=list(exact), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX
            ),
        )
    return quantised


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
