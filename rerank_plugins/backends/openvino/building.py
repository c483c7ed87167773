"""Converted models: found on disk or made, and compared with torch's results."""

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

from rerank_plugins.backends.openvino.graphs import Exportable, to_openvino
from rerank_plugins.backends.openvino.quantising import SETTINGS, quantise
from rerank_plugins.backends.openvino.store import store_folder, store_key, stored_model
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.errors import ModelLoadError

_log = logging.getLogger(__name__)

_MAKERS: Final = ("openvino", "torch", "transformers")
_ALLOWED: Final = {"float32": 1e-4, "bfloat16": 0.02, "float16": 0.02, "int8": 0.3}
"""How far results may be from torch's in float32, in units of the largest of them plus 1."""


def build(
    config: ModelConfig,
    module: Exportable,
    calibration: Sequence[Sequence[NDArray[np.int64]]],
    fingerprint: str,
) -> openvino.Model:
    """Return the OpenVINO model of a module, from disk where it was converted before.

    Args:
        config: Resolved; its data type and where to keep the model.
        module: What to convert.
        calibration: Inputs of the module, on which int8 ranges are measured.
        fingerprint: Of the model's files; without one nothing is kept.
    """
    parts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "module": type(module).__name__,
        "inputs": module.inputs,
        "versions": {name: version(name) for name in _MAKERS},
    }
    if config.dtype == "int8":
        digest = blake2b()
        for array in (array for inputs in calibration for array in inputs):
            digest.update(repr(array.shape).encode() + array.tobytes())
        parts["nncf"] = {**SETTINGS, "version": version("nncf"), "texts": digest.hexdigest()}

    def make() -> openvino.Model:
        start = perf_counter()
        model = to_openvino(module)
        if config.dtype == "int8":
            model = quantise(model, calibration, module.exact)
        took = perf_counter() - start
        _log.info("%r was converted to %s in %.0f s.", config.model, config.dtype, took)
        return model

    if not fingerprint:
        return make()
    try:
        folder = store_folder(config.cache_folder)
    except (OSError, ValueError) as error:  # a read-only disk, or a file where a folder should be
        _log.warning("the converted %r is not kept: %s", config.model, error)
        return make()
    return stored_model(folder, store_key(parts), make)


def check_agreement(
    config: ModelConfig, found: NDArray[np.float32], wanted: NDArray[np.float32]
) -> None:
    """Compare what OpenVINO computes of awkward inputs with what torch computes.

    Raises:
        ModelLoadError: If it differs more than the data type explains.
    """
    difference = float(np.abs(found - wanted).max())
    allowed = _ALLOWED[config.dtype] * (1 + float(np.abs(wanted).max()))
    if not difference <= allowed:  # also if it is not a number
        message = (
            f"OpenVINO computes {config.model!r} in {config.dtype} differently from torch: by "
            f"{difference:g} on awkward texts, where {allowed:g} is allowed. Use "
            "backend='torch' (or 'sentence-transformers'), or another dtype."
        )
        raise ModelLoadError(message)
