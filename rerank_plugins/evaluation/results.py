"""What an evaluation found: per question, per system, as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rerank_plugins._optional import require
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.comparable import Comparable
from rerank_plugins.evaluation.files import write_text

if TYPE_CHECKING:
    import pandas as pd

FORMAT: Final = 1
PERCENTILES: Final = (50, 90, 95, 99)


@dataclass(frozen=True)
class SystemResult:
    """One system on all questions; sequences are in the order of the evaluation's.

    Attributes:
        name: The caller's name of it.
        rankings: Ids of the passages returned for each question, best first.
        values: Measure -> one value a question.
        seconds: Seconds that each question took, the first stage included.
        first_stage_seconds: The first stage's part of them.
        peak_memory_mib: Most memory of the process in RAM during the run; None if unknown.
        peak_cuda_mib: Most memory that torch allocated on CUDA devices; None without one.
    """

    name: str
    rankings: tuple[tuple[str, ...], ...]
    values: Mapping[str, tuple[float, ...]]
    seconds: tuple[float, ...]
    first_stage_seconds: tuple[float, ...]
    peak_memory_mib: float | None = None
    peak_cuda_mib: float | None = None

    def mean(self, measure: str) -> float:
        """Return the mean of a measure."""
        return float(np.mean(self.values[measure]))

    @property
    def latency_ms(self) -> dict[str, float]:
        """Percentiles of the time of one question, in milliseconds, by ``"p50"`` and so on."""
        found = np.percentile(self.seconds, PERCENTILES) * 1_000
        return {f"p{p}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}

    @property
    def queries_per_second(self) -> float:
        """Throughput of one caller who asks one question after the other."""
        return len(self.seconds) / sum(self.seconds)


@dataclass(frozen=True)
class Evaluation(Comparable):
    """Systems measured on the same questions; index it by a system's name.

    Attributes:
        documents: How many passages were searched.
        depth: How many candidates the first stage gave.
        questions: Ids of the questions.
        measures: Names of the measures.
        systems: What was found, in the caller's order.
        environment: The machine and the versions it was measured with.
    """

    documents: int
    depth: int
    questions: tuple[str, ...]
    measures: tuple[str, ...]
    systems: tuple[SystemResult, ...]
    environment: Mapping[str, Any]

    def __getitem__(self, name: str) -> SystemResult:
        """Return a system's result.

        Raises:
            KeyError: If there is no system of that name.
        """
        for one in self.systems:
            if one.name == name:
                return one
        raise KeyError(name)

    def _measured(self) -> Iterator[tuple[str, Mapping[str, Sequence[float]]]]:
        return ((one.name, one.values) for one in self.systems)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON, means and percentiles included."""
        values = {"format": FORMAT, **asdict(self)}
        for one, system in zip(self.systems, values["systems"], strict=True):
            system["means"] = {measure: one.mean(measure) for measure in self.measures}
            system["latency_ms"] = one.latency_ms
            system["queries_per_second"] = one.queries_per_second
        return values

    def save(self, path: str | Path) -> None:
        """Write everything as JSON; a file that is there is replaced at once or not at all."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInputError: If the file cannot be read or is something else.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                message = f"{path} has format {values['format']}; this version reads {FORMAT}."
                raise InvalidInputError(message)
            return cls(
                int(values["documents"]),
                int(values["depth"]),
                tuple(values["questions"]),
                tuple(values["measures"]),
                tuple(_system(one, len(values["questions"])) for one in values["systems"]),
                dict(values["environment"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            message = f"{path} is no saved evaluation: {type(error).__name__}: {error}"
            raise InvalidInputError(message) from error

    def to_pandas(self) -> pd.DataFrame:
        """Return a frame with one row a system and question, and a column a measure.

        Raises:
            MissingDependencyError: If the extra ``pandas`` is not installed.
        """
        pandas = require("pandas", "pandas")
        frame: pd.DataFrame = pandas.DataFrame(
            {"system": one.name, "question": question, "seconds": one.seconds[at]}
            | {measure: one.values[measure][at] for measure in self.measures}
            for one in self.systems
            for at, question in enumerate(self.questions)
        )
        return frame

    def __rich__(self) -> object:
        """Return a table for rich's console: measures with intervals, places, latency."""
        return require("rerank_plugins.evaluation.tables", None).evaluation_table(self)


def _system(values: Mapping[str, Any], questions: int) -> SystemResult:
    result = SystemResult(
        str(values["name"]),
        tuple(tuple(one) for one in values["rankings"]),
        {name: tuple(map(float, one)) for name, one in values["values"].items()},
        tuple(map(float, values["seconds"])),
        tuple(map(float, values["first_stage_seconds"])),
        values["peak_memory_mib"],
        values["peak_cuda_mib"],
    )
    parts = (result.rankings, result.seconds, result.first_stage_seconds, *result.values.values())
    if any(len(part) != questions for part in parts):
        message = f"{result.name} has not one value for each of {questions} questions"
        raise ValueError(message)
    return result
