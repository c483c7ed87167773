"""Setups, sweeps over setups and depths with shared work done once, and code of setups."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rerank_plugins._lazy import require
from rerank_plugins._progress import chunks
from rerank_plugins.config import MINI, RankingSettings, ValueGroup, validate_count
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.ranking import fuse, fused_order
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.engine.backend import CrossEncoderBackend
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.candidates import CandidatePool, PairScores, by_score, digest
from rerank_plugins.evaluation.datasets import RetrievalSet, as_judged_set
from rerank_plugins.evaluation.evaluator import MEASURES, environment, write_bytes
from rerank_plugins.evaluation.metrics import Comparable, Difference, bootstrapped_mean, per_query
from rerank_plugins.types import FloatArray

SCORING_OPTIONS: Final = frozenset(
    {
        *("backend", "device", "dtype", "max_length", "revision", "cache_folder"),
        *("local_files_only", "trust_remote_code", "prompts", "long_documents"),
    }
)
"""Options that change the raw scores or their cost."""

ON_CPU: Final = (("torch", "float32"), ("torch", "bfloat16"), ("openvino", "int8"))
"""Backends and data types to try on a CPU; those that cannot be loaded are skipped."""

ON_GPU: Final = (("torch", "float16"), ("torch", "bfloat16"))

DEPTHS: Final = (10, 20, 50, 100, 200, 1000)

MEASURED_DEPTH: Final = 100
"""Number of results that measures see, even where fewer are reranked."""


@dataclass(frozen=True, init=False)
class Setup:
    """A cross-encoder with settings of :class:`~rerank_plugins.Reranker`.

    Attributes:
        model: Name, folder or backend object.
        options: Settings that affect scoring, and the fusion.

    Example:
        >>> print(Setup("mini", backend="torch", dtype="float32", max_length=64))
        mini (torch, float32, max_length=64)
    """

    model: str | Path | CrossEncoderBackend
    options: Mapping[str, Any]

    def __init__(self, model: str | Path | CrossEncoderBackend = MINI, /, **options: Any) -> None:  # noqa: ANN401
        """Set the model and the settings that differ from the defaults.

        Raises:
            ConfigurationError: If an option is not a scoring or fusion setting.
        """
        allowed = SCORING_OPTIONS | {"fusion"}
        unknown = sorted(options.keys() - allowed)
        if unknown:
            message = f"options contain {unknown[0]!r}; a setup takes {', '.join(sorted(allowed))}."
            raise ConfigurationError(message)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "options", options)

    @property
    def name(self) -> str:
        """The name of the model."""
        model = self.model
        return str(model) if isinstance(model, (str, Path)) else model.identity.model

    @property
    def scoring(self) -> Setup:
        """The setup without fusion; its raw scores are the same."""
        shared = {name: self.options[name] for name in SCORING_OPTIONS & self.options.keys()}
        return Setup(self.model, **shared)

    def settings(self) -> dict[str, Any]:
        """Return keyword arguments for :class:`~rerank_plugins.Reranker`."""
        return {"model": self.model, **self.options}

    def reranker(self) -> Reranker:
        """Return a reranker with these settings.

        Raises:
            ConfigurationError: If a setting is invalid on this machine.
        """
        return Reranker(**self.settings())

    def __str__(self) -> str:
        """Return the model and its options."""
        options = [
            str(value)
            if name in ("backend", "dtype")
            else f"{name}={repr(value) if isinstance(value, ValueGroup) else value}"
            for name, value in self.options.items()
        ]
        return f"{self.name} ({', '.join(options)})" if options else self.name


class RerankStep(NamedTuple):
    """One cross-encoder over the top candidates of the step before it."""

    setup: Setup
    depth: int

    def __str__(self) -> str:
        """Return the setup and the depth."""
        return f"{self.setup}, top {self.depth}"


def default_setups(models: Iterable[str]) -> list[Setup]:
    """Return each model with the backends and data types that fit this machine."""
    variants = ON_GPU if require("torch", None).cuda.is_available() else ON_CPU
    return [
        Setup(model, backend=backend, dtype=dtype)
        for model in models
        for backend, dtype in variants
    ]


@dataclass(frozen=True)
class Cell:
    """One setup at one depth, or a cascade of setups.

    Attributes:
        steps: The reranking; empty for the bi-encoder alone.
        values: Measure -> one value per question.
        seconds: Seconds of each timed question, the bi-encoder's search included.
    """

    steps: tuple[RerankStep, ...]
    values: Mapping[str, tuple[float, ...]]
    seconds: tuple[float, ...]

    @property
    def label(self) -> str:
        """Its models, options and depths."""
        return ", then ".join(map(str, self.steps)) or "bi-encoder alone"

    @property
    def depth(self) -> int:
        """Number of reranked candidates; 0 for the bi-encoder alone."""
        return self.steps[0].depth if self.steps else 0

    @property
    def latency_ms(self) -> tuple[float, float]:
        """Median and 95th percentile of the time per question, in milliseconds."""
        median, p95 = np.percentile(self.seconds, [50, 95]) * 1_000
        return float(median), float(p95)

    def interval(self, measure: str) -> Difference:
        """Return the mean of a measure with its 95% bootstrap interval."""
        return bootstrapped_mean(np.array(self.values[measure]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        median, p95 = self.latency_ms
        plain = TypeAdapter(Any).dump_python
        return {
            "label": self.label,
            "depth": self.depth,
            "steps": [
                {"model": setup.name, "options": plain(setup.options, mode="json"), "depth": depth}
                for setup, depth in self.steps
            ],
            "values": self.values,
            "means": {name: float(np.mean(row)) for name, row in self.values.items()},
            "seconds": self.seconds,
            "p50_ms": median,
            "p95_ms": p95,
        }


@dataclass(frozen=True)
class Sweep(Comparable):
    """Cells measured on the same questions.

    Attributes:
        documents: Number of passages in the corpus.
        questions: Ids of the questions.
        measures: Names of the measures.
        cells: The bi-encoder alone, then each setup from shallow to deep.
        environment: The machine and the package versions.
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
        return {
            "documents": self.documents,
            "questions": self.questions,
            "measures": self.measures,
            "cells": [cell.to_dict() for cell in self.cells],
            "environment": dict(self.environment),
        }

    def __rich__(self) -> object:
        """Return a table for rich's console."""
        return require("rerank_plugins.evaluation.views", None).sweep_table(self)


def sweep(
    data: str | Path | RetrievalSet,
    models: Sequence[str | Path | CrossEncoderBackend] = (MINI,),
    depths: Sequence[int] = DEPTHS,
    options: Sequence[Mapping[str, Any]] = ({},),
    *,
    encoder: str | Path | BiEncoder = MINI,
    measures: Sequence[str] = MEASURES,
    split: str = "test",
    folder: str | Path | None = None,
    timed_questions: int = 20,
    show_progress: bool | None = None,
) -> Sweep:
    """Measure the bi-encoder alone, and each model with each option at each depth.

    Passages are embedded once, and each model scores each pair once for all depths and
    fusions. Latency is measured separately: some questions run again from the start, one
    after the other.

    Args:
        data: A folder in BEIR's layout, or a set with judgments.
        models: Cross-encoders: names, folders or backend objects.
        depths: Numbers of candidates to rerank; the other candidates keep their order. A depth
            above the number of passages means all of them.
        options: Settings of :class:`~rerank_plugins.Reranker` to try: those that affect scoring
            (``dtype``, ``max_length``, ``long_documents`` etc.) and the fusion.
        encoder: The bi-encoder, or its name.
        measures: Names of ir_measures.
        split: The judgments to read from a folder.
        folder: Folder for intermediate results, from which an interrupted sweep resumes. None
            does not store them.
        timed_questions: Number of questions to time in each cell.
        show_progress: Whether to show progress bars; None shows them in a terminal.

    Raises:
        ConfigurationError: If a setting is out of range.
        InvalidInputError: If the set is empty or has no judgments.
        InferenceError: If a model fails.
    """
    data = as_judged_set(data, split)
    validate_count("timed_questions", timed_questions)
    if not depths:
        message = "depths is empty; give at least one number of candidates."
        raise ConfigurationError(message)
    for depth in depths:
        validate_count("depths", depth)
    depths = sorted({min(depth, len(data.passages)) for depth in depths})
    for settings in options:
        Reranker(**Setup(MINI, **settings).options)  # raises before anything is computed
    setups = [Setup(model, **settings) for model in models for settings in options]
    show = sys.stderr.isatty() if show_progress is None else show_progress
    folder = None if folder is None else Path(folder).expanduser()
    encoder = encoder if isinstance(encoder, BiEncoder) else BiEncoder(encoder)
    pool = CandidatePool(data, encoder, max(*depths, MEASURED_DEPTH), folder)
    rows = range(len(pool.questions))
    timed = np.random.default_rng(0).permutation(len(rows))[:timed_questions].tolist()
    cells = measure_cells(pool, [bi_encoder_trial(pool, rows)], measures, timed)
    for setup in setups:
        cells += _setup_cells(pool, setup, depths, measures, timed, folder=folder, show=show)
    return Sweep(
        len(data.passages), tuple(pool.questions), tuple(measures), tuple(cells), environment()
    )


class Trial(NamedTuple):
    """A ranking of all questions (question id -> passage ids) that is yet to be measured.

    The bi-encoder alone has no steps and no reranker.
    """

    steps: tuple[RerankStep, ...]
    rankings: Mapping[str, Sequence[str]]
    reranker: Reranker | None


def bi_encoder_trial(pool: CandidatePool, rows: Sequence[int]) -> Trial:
    """Return the ranking of the bi-encoder alone."""
    columns = range(pool.depth)
    return Trial((), {pool.questions[row]: pool.ids(row, columns) for row in rows}, None)


def setup_trial(
    pool: CandidatePool, step: RerankStep, scores: FloatArray, rows: Sequence[int], scorer: Reranker
) -> Trial:
    """Return the ranking of a setup at a depth, from its raw scores."""
    rankings = {
        pool.questions[row]: pool.ids(row, _order(scores[row], pool.cosines[row], step))
        for row in rows
    }
    return Trial((step,), rankings, scorer)


def measure_cells(
    pool: CandidatePool,
    trials: Sequence[Trial],
    measures: Sequence[str],
    timed: Sequence[int],
    *,
    qrels: Mapping[str, Mapping[str, int]] | None = None,
    limit_s: float = 20.0,
) -> list[Cell]:
    """Measure the quality of trials, and their latency on the rows to time.

    Timed requests of the trials are interleaved, so that noise affects all of them equally.
    Timing ends after ``limit_s`` seconds, once three rows are done. Judgments of None are those
    of the set.
    """
    requests = [(trial.reranker, trial.steps[0].depth if trial.steps else 1) for trial in trials]
    for request in requests:
        pool.timed(timed[0], *request)  # loads the models
    rounds: list[list[float]] = []
    start = perf_counter()
    for row in timed:
        rounds.append([pool.timed(row, *request) for request in requests])
        if len(rounds) > 2 and perf_counter() - start > limit_s:  # noqa: PLR2004
            break
    judged = pool.data.qrels if qrels is None else qrels
    cells = []
    for trial, seconds in zip(trials, zip(*rounds, strict=True), strict=True):
        values = per_query(judged, trial.rankings, measures)
        rows = {name: tuple(row.tolist()) for name, row in values.items()}
        cells.append(Cell(trial.steps, rows, seconds))
    return cells


def _setup_cells(
    pool: CandidatePool,
    setup: Setup,
    depths: Sequence[int],
    measures: Sequence[str],
    timed: Sequence[int],
    *,
    folder: Path | None,
    show: bool,
) -> Iterator[Cell]:
    """Yield the cells of one setup, from shallow to deep."""
    scorer = setup.scoring.reranker().warm_up()
    options = {name: str(setup.scoring.options[name]) for name in sorted(setup.scoring.options)}
    key = digest(pool.key, repr(scorer.engine.identity), json.dumps(options))
    scores = PairScores(pool, scorer, folder and folder / f"scores-{key}.npy")
    reranker = setup.reranker()
    rows = range(len(pool.questions))
    settings = json.dumps(
        [dict(setup.options), list(measures), pool.data.qrels, list(timed)], default=str
    )
    for depth in depths:
        file = folder and folder / f"cell-{digest(key, settings)}-{depth}.json"
        step = RerankStep(setup, depth)
        cell = _read_cell(file, step)
        if cell is None:
            for (row,) in chunks(rows, 1, str(step), show=show):
                scores.score(row, range(depth))
            scores.save()
            trial = setup_trial(pool, step, scores.values, rows, reranker)
            (cell,) = measure_cells(pool, [trial], measures, timed)
            if file is not None:
                stored = {"values": cell.values, "seconds": cell.seconds}
                write_bytes(file, json.dumps(stored).encode())
        yield cell


def _order(scores: FloatArray, cosines: FloatArray, step: RerankStep) -> NDArray[np.intp]:
    setup, depth = step
    fusion = RankingSettings(fusion=setup.options.get("fusion", "none")).fusion_settings
    if fusion is None:
        return by_score(scores, depth)
    fused = fuse(scores[:depth], cosines[:depth], fusion.method, fusion.weight)
    return np.concatenate([fused_order(fused, cosines[:depth]), np.arange(depth, len(scores))])


def _read_cell(file: Path | None, step: RerankStep) -> Cell | None:
    """Return a stored cell; None if there is no complete one."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8")) if file else {}
        values = {name: tuple(row) for name, row in stored["values"].items()}
        return Cell((step,), values, tuple(stored["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def langchain_code(encoder: str, steps: Sequence[RerankStep], top_n: int = 10) -> str:
    """Return LangChain code that retrieves from a list ``texts``; more steps are a cascade."""
    arguments, imports = _arguments(steps)
    if steps:
        names = "BiEncoderEmbeddings, RerankRetriever"
        retriever = f"""RerankRetriever(
    base_retriever=store.as_retriever(),
    k={steps[0].depth},
    top_n={min(top_n, steps[0].depth)},
    {arguments},
)"""
    else:
        names = "BiEncoderEmbeddings"
        retriever = f'store.as_retriever(search_kwargs={{"k": {top_n}}})'
    return f"""from langchain_core.vectorstores import InMemoryVectorStore
{imports}from rerank_plugins.langchain import {names}

# Any other vector store works with the same embeddings.
store = InMemoryVectorStore.from_texts(
    texts, BiEncoderEmbeddings(model={_literal(encoder)})
)
retriever = {retriever}
documents = retriever.invoke("your question")
"""


def llama_index_code(encoder: str, steps: Sequence[RerankStep], top_n: int = 10) -> str:
    """Return LlamaIndex code that retrieves from a list ``texts``; see :func:`langchain_code`."""
    names = "BiEncoderEmbedding, CrossEncoderPostprocessor" if steps else "BiEncoderEmbedding"
    arguments, imports = _arguments(steps)
    depth = steps[0].depth if steps else top_n
    code = f"""from llama_index.core import Document, VectorStoreIndex
{imports}from rerank_plugins.llama_index import {names}

# Any other index works with the same embeddings.
index = VectorStoreIndex.from_documents(
    [Document(text=text) for text in texts],
    embed_model=BiEncoderEmbedding(model={_literal(encoder)}),
)
nodes = index.as_retriever(similarity_top_k={depth}).retrieve("your question")
"""
    if not steps:
        return code
    return f"""{code}postprocessor = CrossEncoderPostprocessor(
    top_n={min(top_n, depth)},
    {arguments},
)
nodes = postprocessor.postprocess_nodes(nodes, query_str="your question")
"""


def _arguments(steps: Sequence[RerankStep]) -> tuple[str, str]:
    """Return the code of the reranker's arguments, and of the imports that they need."""
    options = [value for step in steps for value in step.setup.options.values()]
    names = {type(value).__name__ for value in options if isinstance(value, ValueGroup)}
    settings = [
        [f"{name}={_literal(value)}" for name, value in step.setup.settings().items()]
        for step in steps
    ]
    arguments = ",\n    ".join(settings[0]) if settings else ""
    if len(steps) > 1:
        names |= {"Cascade", "Reranker"}
        stages = [f"Reranker({', '.join(values)})" for values in settings]
        for number, following in enumerate(steps[1:]):
            stages[number] = f"({stages[number]}, {following.depth})"
        lines = "".join(f"            {stage},\n" for stage in stages)
        arguments = f"model=Cascade(\n        [\n{lines}        ]\n    )"
    imports = f"from rerank_plugins import {', '.join(sorted(names))}\n" if names else ""
    return arguments, imports


def _literal(value: object) -> str:
    """Return Python code for a value, with strings in double quotes."""
    return json.dumps(str(value)) if isinstance(value, (str, Path)) else repr(value)
