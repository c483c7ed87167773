"""Texts on which the ranges of int8 activations are measured."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Final, cast

from rerank_plugins.backends._openvino_model import OpenVINOModel
from rerank_plugins.backends.torch.loading import PROBES
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.core.types import TextPair

_FOLDER: Final = Path(__file__).parents[2] / "data" / "squad-dev"
_PAIRS: Final = 64


def calibration_pairs(config: ModelConfig) -> tuple[TextPair, ...]:
    """Return this package's pairs, awkward ones, and those of the configuration's settings.

    The user's only widen ranges: a few texts alone were measured to leave them far too narrow.
    """
    given = config.settings.calibration if isinstance(config.settings, OpenVINOModel) else None
    return (*bundled_pairs(), *PROBES, *cast("tuple[TextPair, ...]", given or ()))


def bundled_pairs() -> tuple[TextPair, ...]:
    """Return pairs of the bundled texts; no judgment of any set is read.

    Every other one is a question beside a paragraph that stands far from it, the rest a
    paragraph's first sentence beside that paragraph: what has nothing to do with each
    other, and what has, spread over both files.
    """
    questions = _texts((_FOLDER / "queries.jsonl").read_bytes())
    paragraphs = _texts(gzip.decompress((_FOLDER / "corpus.jsonl.gz").read_bytes()))
    pairs = []
    for number in range(_PAIRS):
        paragraph = paragraphs[number * len(paragraphs) // _PAIRS]
        question = questions[-1 - number * len(questions) // _PAIRS]
        query = paragraph.split(". ")[0] if number % 2 else question
        pairs.append(TextPair(query, paragraph))
    return tuple(pairs)


def _texts(lines: bytes) -> list[str]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
    return [row["text"] for row in rows]
