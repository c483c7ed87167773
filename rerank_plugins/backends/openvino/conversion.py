"""Conversion of torch modules to OpenVINO models, cached on disk and compared with torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final

import numpy as np
import openvino
from numpy.typing import NDArray

from rerank_plugins.backends.openvino.export import Exportable, to_openvino
from rerank_plugins.backends.openvino.model_cache import cache_key, load_or_build, models_folder
from rerank_plugins.backends.openvino.quantization import SETTINGS, quantize
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ModelLoadError

_log = logging.getLogger(__name__)

_CONVERTERS: Final = ("openvino", "torch", "transformers")
"""Packages whose versions determine the converted model."""

_TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.02, "float16": 0.02, "int8": 0.3}
"""Largest difference from torch's float32 results, relative to the largest of them plus 1."""


def convert(
    config: ModelConfig,
    module: Exportable,
    calibration: Sequence[Sequence[NDArray[np.int64]]],
    fingerprint: str,
) -> openvino.Model:
    """Return the OpenVINO model of a module, from the disk cache if it was converted before.

    Args:
        config: Resolved configuration; its data type and its cache folder are used.
        module: The module to convert.
        calibration: Module inputs of each calibration text, for int8.
        fingerprint: Digest of the model's files; without one, the model is not cached.
    """

    def build() -> openvino.Model:
        start = perf_counter()
        model = to_openvino(module)
        if config.dtype == "int8":
            model = quantize(model, calibration, module.float32_patterns)
        seconds = perf_counter() - start
        _log.info("%r was converted to %s in %.0f s.", config.model, config.dtype, seconds)
        return model

    if not fingerprint:
        return build()
    try:
        folder = models_folder(config.cache_folder)
    except (OSError, ValueError) as error:  # a read-only disk, or a file in place of a folder
        _log.warning("the converted model %r is not cached: %s", config.model, error)
        return build()
    parts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "module": type(module).__name__,
        "inputs": module.inputs,
        "versions": {name: version(name) for name in _CONVERTERS},
    }
    if config.dtype == "int8":
        digest = blake2b()
        for array in (array for inputs in calibration for array in inputs):
            digest.update(repr(array.shape).encode() + array.tobytes())
        parts["nncf"] = {**SETTINGS, "version": version("nncf"), "texts": digest.hexdigest()}
    return load_or_build(folder, cache_key(parts), build)


def validate_agreement(
    config: ModelConfig, results: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """Compare OpenVINO's results for the probes with torch's.

    Raises:
        ModelLoadError: If they differ more than the data type explains.
    """
    difference = float(np.abs(results - expected).max())
    tolerance = _TOLERANCE[config.dtype] * (1 + float(np.abs(expected).max()))
    if not difference <= tolerance:  # also if the difference is NaN
        message = (
            f"OpenVINO's results for {config.model!r} in {config.dtype} differ from torch's by "
            f"{difference:g}; at most {tolerance:g} is allowed. Use backend='torch' (for a "
            "bi-encoder 'sentence-transformers'), or another dtype."
        )
        raise ModelLoadError(message)
