"""Quality, latency and memory of systems on labeled questions."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import numpy as np
from pydantic import TypeAdapter

from rerank_plugins import __version__
from rerank_plugins._lazy import require
from rerank_plugins._progress import chunks
from rerank_plugins.config import validate_count
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.datasets import RetrievalSet, as_judged_set
from rerank_plugins.evaluation.metrics import Comparable, per_query
from rerank_plugins.evaluation.systems import Hits, System, as_system

if TYPE_CHECKING:
    import pandas as pd

MEASURES: Final = (
    "nDCG@10",
    "RR@10",
    "R@10",
    "R@100",
    "P@10",
    "Success@1",
    "nDCG(judged_only=True)@10",
    "RR(judged_only=True)@10",
    "Judged@10",
)
"""Default measures. The mean of RR is MRR; Judged is the share of results with a judgment."""

FORMAT: Final = 1
PERCENTILES: Final = (50, 90, 95, 99)


@dataclass(frozen=True)
class SystemResult:
    """Results of one system; sequences are in the order of the evaluation's questions.

    Attributes:
        name: Name of the system.
        rankings: Ids of the passages returned for each question, best first.
        values: Measure -> one value per question.
        seconds: Seconds per question, the first stage included.
        first_stage_seconds: Seconds per question of the first stage.
        peak_memory_mib: Peak resident memory of the process during the run; None if unknown.
        peak_cuda_mib: Peak memory that torch allocated on CUDA devices; None without CUDA.
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
        """Percentiles of the time per question in milliseconds, with keys ``"p50"`` etc."""
        values = np.percentile(self.seconds, PERCENTILES) * 1_000
        return {f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)}

    @property
    def queries_per_second(self) -> float:
        """Sequential throughput."""
        return len(self.seconds) / sum(self.seconds)


@dataclass(frozen=True)
class Evaluation(Comparable):
    """Systems measured on the same questions; index it by a system's name.

    Attributes:
        documents: Number of passages in the corpus.
        depth: Number of candidates of the first stage.
        questions: Ids of the questions.
        measures: Names of the measures.
        systems: Results, in the order of the ``systems`` argument.
        environment: The machine and the package versions.
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
        return {system.name: system for system in self.systems}[name]

    def _measured(self) -> Iterator[tuple[str, Mapping[str, Sequence[float]]]]:
        return ((system.name, system.values) for system in self.systems)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON, means and percentiles included."""
        values = {"format": FORMAT, **asdict(self)}
        for result, system in zip(self.systems, values["systems"], strict=True):
            system["means"] = {measure: result.mean(measure) for measure in self.measures}
            system["latency_ms"] = result.latency_ms
            system["queries_per_second"] = result.queries_per_second
        return values

    def save(self, path: str | Path) -> None:
        """Write the evaluation as JSON; an existing file is replaced atomically."""
        write_bytes(Path(path), f"{json.dumps(self.to_dict(), indent=1)}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read a file written by :meth:`save`.

        Raises:
            InvalidInputError: If the file cannot be read or is not a saved evaluation.
        """
        try:
            content = Path(path).read_bytes()
            found = json.loads(content)["format"]
            evaluation = TypeAdapter(cls).validate_json(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{path} is not a saved evaluation: {type(error).__name__}: {error}"
            raise InvalidInputError(message) from error
        if found != FORMAT:
            message = f"{path} has format {found}; this version reads {FORMAT}."
            raise InvalidInputError(message)
        for system in evaluation.systems:
            rows = (system.rankings, system.seconds, system.first_stage_seconds)
            if {len(evaluation.questions)} != {*map(len, (*rows, *system.values.values()))}:
                message = f"{path}: {system.name} does not have one value for each question."
                raise InvalidInputError(message)
        return evaluation

    def to_pandas(self) -> pd.DataFrame:
        """Return a frame with one row per system and question and one column per measure.

        Raises:
            MissingDependencyError: If the extra ``pandas`` is not installed.
        """
        pandas = require("pandas", "pandas")
        frame: pd.DataFrame = pandas.DataFrame(
            {"system": system.name, "question": question, "seconds": system.seconds[position]}
            | {measure: system.values[measure][position] for measure in self.measures}
            for system in self.systems
            for position, question in enumerate(self.questions)
        )
        return frame

    def __rich__(self) -> object:
        """Return a table for rich's console: measures with intervals, ranks, latency."""
        return require("rerank_plugins.evaluation.views", None).evaluation_table(self)


class PeakMemory:
    """Peak memory of this process and its CUDA devices since construction.

    Resident memory is known on Linux only, where the high-water mark can be reset.
    """

    def __init__(self) -> None:
        """Reset the high-water marks."""
        torch = sys.modules.get("torch")  # neither imports torch nor initializes CUDA
        self._cuda = torch.cuda if torch is not None and torch.cuda.is_initialized() else None
        if self._cuda is not None:
            for device in range(self._cuda.device_count()):
                self._cuda.reset_peak_memory_stats(device)
        try:
            Path("/proc/self/clear_refs").write_bytes(b"5")  # see man proc_pid_clear_refs
            self._can_reset = True
        except OSError:
            self._can_reset = False

    @property
    def resident_mib(self) -> float | None:
        """Peak resident memory in MiB; None where it is unknown."""
        if not self._can_reset:
            return None
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    @property
    def cuda_mib(self) -> float | None:
        """Peak memory allocated by torch on all CUDA devices in MiB; None without CUDA."""
        if self._cuda is None:
            return None
        devices = range(self._cuda.device_count())
        return float(sum(map(self._cuda.max_memory_allocated, devices)) / 2**20)


def evaluate(
    data: str | Path | RetrievalSet,
    systems: Mapping[str, Any],
    *,
    first_stage: Any = None,  # noqa: ANN401  (any retriever)
    depth: int = 100,
    measures: Sequence[str] = MEASURES,
    split: str = "test",
    show_progress: bool | None = None,
) -> Evaluation:
    """Measure retrievers and rankers on labeled questions.

    Questions run one after the other. Each system answers the first question once before
    timing starts, so that its model is loaded. A retriever searches the corpus. A ranker gets
    the best ``depth`` passages of the first stage, and its time includes the first stage.

    Args:
        data: A folder in BEIR's layout, or a set made by
            :func:`~rerank_plugins.evaluation.read_beir`,
            :func:`~rerank_plugins.evaluation.from_documents` or
            :func:`~rerank_plugins.evaluation.from_frames`.
        systems: The systems by name. Each is a ``BiEncoder``, ``Reranker`` or ``Cascade``; a
            retriever or compressor of LangChain; a retriever or postprocessor of LlamaIndex; a
            function ``query -> documents, nodes, ids or texts`` or ``(query, texts) -> one
            score per text``; or a mapping from question id to ranked ids.
        first_stage: The retriever that finds candidates for rankers; None is the embedded
            bi-encoder.
        depth: Number of candidates for rankers, and maximum number of results of retrievers.
        measures: Names of ir_measures.
        split: The judgments to read from a folder.
        show_progress: Whether to show progress bars; None shows them in a terminal.

    Raises:
        ConfigurationError: If a system or a measure is invalid.
        InvalidInputError: If the set is empty or has no judgments, or a system returns an
            unknown document.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    data = as_judged_set(data, split)
    if not isinstance(systems, Mapping) or not systems:
        message = 'systems is empty or not a mapping; give names: {"mini": Reranker()}.'
        raise ConfigurationError(message)
    validate_count("depth", depth)
    wrapped = {name: as_system(system, data, depth) for name, system in systems.items()}
    show = sys.stderr.isatty() if show_progress is None else show_progress
    retrieved: dict[str, Hits] = {}
    first_seconds: list[float] = []
    if any(system.needs_candidates for system in wrapped.values()):
        first = as_system(BiEncoder() if first_stage is None else first_stage, data, depth)
        if first.needs_candidates:
            message = "first_stage is a ranker; it must be a retriever."
            raise ConfigurationError(message)
        retrieved, first_seconds, _ = _run(first, data, {}, "First stage", show=show)
    results = []
    for name, system in wrapped.items():
        candidates = retrieved if system.needs_candidates else {}
        answers, seconds, memory = _run(system, data, candidates, name, show=show)
        before = first_seconds if system.needs_candidates else [0.0] * len(seconds)
        rankings = {query: hits.ids for query, hits in answers.items()}
        values = per_query(data.qrels, rankings, measures)
        results.append(
            SystemResult(
                name,
                tuple(tuple(rankings[query]) for query in data.queries),
                {measure: tuple(row.tolist()) for measure, row in values.items()},
                tuple(map(sum, zip(seconds, before, strict=True))),
                tuple(before),
                memory.resident_mib,
                memory.cuda_mib,
            )
        )
    questions = tuple(data.queries)
    return Evaluation(
        len(data.passages), depth, questions, tuple(measures), tuple(results), environment()
    )


def environment() -> dict[str, Any]:
    """Return the machine type and package versions, without the host name."""
    packages = ("torch", "transformers", "sentence-transformers", "numpy")
    return {
        "rerank_plugins": __version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new content."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        message = f"{path} cannot be written: {error}"
        raise InvalidInputError(message) from error


def _run(
    system: System, data: RetrievalSet, candidates: Mapping[str, Hits], title: str, *, show: bool
) -> tuple[dict[str, Hits], list[float], PeakMemory]:
    """Run a system on all questions; return its results, the seconds of each and the memory."""
    answers: dict[str, Hits] = {}
    seconds: list[float] = []
    memory = PeakMemory()
    queries = list(data.queries)
    system.answer(queries[0], candidates.get(queries[0], Hits([])))  # loads the model
    for (query,) in chunks(queries, 1, title, show=show):
        start = perf_counter()
        answers[query] = system.answer(query, candidates.get(query, Hits([])))
        seconds.append(perf_counter() - start)
    return answers, seconds, memory
