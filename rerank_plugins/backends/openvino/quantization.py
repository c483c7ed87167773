"""Quantization to int8 with NNCF, and the texts on which activation ranges are measured."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import openvino

from rerank_plugins._lazy import require
from rerank_plugins.backends.model_specs import OpenVINOSpec
from rerank_plugins.backends.openvino.telemetry import import_without_telemetry
from rerank_plugins.backends.torch.loading import PROBES
from rerank_plugins.config import ModelConfig
from rerank_plugins.types import TextPair

SETTINGS: Final = {
    "model_type": "transformer",
    "preset": "mixed",
    "fast_bias_correction": True,
    "ranges": "minmax",
}
"""Weights are symmetric per channel, SmoothQuant has its default strength, and ranges cover every
value seen: NNCF's default, the mean of the ranges of all texts, clips values that matter."""

_DATASET: Final = Path(__file__).parents[2] / "data" / "squad-dev"
_BUNDLED_PAIRS: Final = 64


def quantize(
    model: openvino.Model, calibration: Sequence[Sequence[Any]], float32_patterns: Sequence[str]
) -> openvino.Model:
    """Return the model in int8.

    Args:
        model: The float32 model; it is changed.
        calibration: Model inputs of each calibration text.
        float32_patterns: Patterns of operator names that stay float32.
    """
    nncf = import_without_telemetry("nncf")
    estimators = require("nncf.quantization.range_estimator", "openvino")
    with _quiet_nncf():
        quantized: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(calibration),
            model_type=nncf.ModelType(SETTINGS["model_type"]),
            preset=nncf.QuantizationPreset(SETTINGS["preset"]),
            fast_bias_correction=SETTINGS["fast_bias_correction"],
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(patterns=list(float32_patterns), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX
            ),
        )
    return quantized


def calibration_pairs(config: ModelConfig) -> tuple[TextPair, ...]:
    """Return the text pairs on which the int8 ranges of a model are measured.

    The user's pairs are added to the bundled ones: measured on a few texts alone, ranges were far
    too narrow.
    """
    pairs = config.spec.calibration if isinstance(config.spec, OpenVINOSpec) else None
    return (*_bundled_pairs(), *PROBES, *cast("tuple[TextPair, ...]", pairs or ()))


def _bundled_pairs() -> Iterator[TextPair]:
    """Yield pairs of the bundled dataset, spread over its files; no relevance label is read.

    They alternate between unrelated pairs (a question and a distant paragraph) and related pairs
    (the first sentence of a paragraph and that paragraph).
    """
    questions = _texts((_DATASET / "queries.jsonl").read_bytes())
    paragraphs = _texts(gzip.decompress((_DATASET / "corpus.jsonl.gz").read_bytes()))
    for number in range(_BUNDLED_PAIRS):
        paragraph = paragraphs[number * len(paragraphs) // _BUNDLED_PAIRS]
        question = questions[-1 - number * len(questions) // _BUNDLED_PAIRS]
        yield TextPair(paragraph.split(". ")[0] if number % 2 else question, paragraph)


def _texts(lines: bytes) -> list[str]:
    return [json.loads(line)["text"] for line in lines.splitlines()]


@contextmanager
def _quiet_nncf() -> Iterator[None]:
    """Suppress NNCF's log messages and progress bars."""
    console = require("rich", "openvino").get_console()
    logger = logging.getLogger("nncf")
    quiet, level = console.quiet, logger.level
    console.quiet = True
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        console.quiet = quiet
        logger.setLevel(level)
