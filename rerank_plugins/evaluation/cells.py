"""What a sweep finds: one cell for each model, option and depth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from rerank_plugins._optional import require
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.evaluation.comparable import Comparable
from rerank_plugins.evaluation.files import write_text
from rerank_plugins.evaluation.metrics import per_query
from rerank_plugins.evaluation.pools import Pool

_TIMING_S: Final = 20.0
"""Seconds after which no further question is timed."""

_LEAST_TIMED: Final = 3


@dataclass(frozen=True)
class Cell:
    """One model with one set of options at one depth.

    Attributes:
        model: The cross-encoder; None is the bi-encoder alone.
        options: Its settings.
        depth: How many candidates it reranked.
        values: Measure -> one value a question.
        seconds: Seconds of each question that was timed, both stages together.
    """

    model: str | None
    options: Mapping[str, Any]
    depth: int
    values: Mapping[str, tuple[float, ...]]
    seconds: tuple[float, ...]

    @property
    def label(self) -> str:
        """What it is, in words."""
        if self.model is None:
            return "bi-encoder alone"
        how = "".join(f", {name}={value}" for name, value in self.options.items())
        return f"{self.model}{how}, best {self.depth}"

    @property
    def latency_ms(self) -> tuple[float, float]:
        """Median and 95th percentile of one question's time, in milliseconds."""
        middle, high = np.percentile(self.seconds, [50, 95]) * 1_000
        return float(middle), float(high)


@dataclass(frozen=True)
class Sweep(Comparable):
    """All cells, on the same questions.

    Attributes:
        documents: How many passages were searched.
        questions: Ids of the questions.
        measures: Names of the measures.
        cells: The bi-encoder alone, then models and options, each from shallow to deep.
        environment: The machine and the versions it was measured with.
    """

    documents: int
    questions: tuple[str, ...]
    measures: tuple[str, ...]
    cells: tuple[Cell, ...]
    environment: Mapping[str, Any]

    def _measured(self) -> Iterator[tuple[str, Mapping[str, Sequence[float]]]]:
        return ((cell.label, cell.values) for cell in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        values = asdict(self)
        for cell, told in zip(self.cells, values["cells"], strict=True):
            told["label"] = cell.label
            told["means"] = {name: float(np.mean(own)) for name, own in cell.values.items()}
            told["p50_ms"], told["p95_ms"] = cell.latency_ms
        return values

    def __rich__(self) -> object:
        """Return a table for rich's console."""
        return require("rerank_plugins.evaluation.tables", None).sweep_table(self)


def measured(
    pool: Pool,
    ranked: Mapping[str, Sequence[str]],
    measures: Sequence[str],
    rows: Sequence[int],
    *,
    ranker: Reranker | None = None,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    depth: int = 0,
) -> Cell:
    """Measure rankings, and take the time of some questions."""
    values = per_query(pool.data.qrels, ranked, measures)
    pool.answer(rows[0], ranker, depth or 1)  # loads what is needed
    seconds: list[float] = []
    start = perf_counter()
    for row in rows:
        seconds.append(pool.answer(row, ranker, depth or 1))
        if len(seconds) >= _LEAST_TIMED and perf_counter() - start > _TIMING_S:
            break
    told = {name: tuple(own.tolist()) for name, own in values.items()}
    return Cell(model, dict(options or {}), depth, told, tuple(seconds))


def read_cell(file: Path | None) -> Cell | None:
    """Return a cell from its file; None if there is none, or not a whole one."""
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file else {}
        return Cell(
            values["model"],
            values["options"],
            values["depth"],
            {name: tuple(own) for name, own in values["values"].items()},
            tuple(values["seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_cell(file: Path | None, cell: Cell) -> None:
    """Write a cell to its file, if it has one."""
    if file is not None:
        write_text(file, json.dumps(asdict(cell), default=str) + "\n")
