"""Running systems on a set: quality, latency and memory from one run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from rerank_plugins import __version__
from rerank_plugins._progress import chunks
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.checks import check_count
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.beir import RetrievalSet
from rerank_plugins.evaluation.memory import PeakMemory
from rerank_plugins.evaluation.metrics import per_query
from rerank_plugins.evaluation.results import Evaluation, SystemResult
from rerank_plugins.evaluation.searches import Found, System
from rerank_plugins.evaluation.sets import as_set
from rerank_plugins.evaluation.systems import as_system

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
"""nDCG, MRR (the mean of RR), recall, precision, a right one first; judged-only variants, and
the share of what is shown that was judged at all."""


def evaluate(
    data: str | Path | RetrievalSet,
    systems: Mapping[str, Any],
    *,
    first_stage: Any = None,  # noqa: ANN401  (whatever searches)
    depth: int = 100,
    measures: Sequence[str] = MEASURES,
    split: str = "test",
    show_progress: bool | None = None,
) -> Evaluation:
    """Measure retrievers and rankers on labelled questions.

    Questions are asked one after the other, as by one user; each system answers the first
    question once before its time is taken, so that its model is loaded. A retriever searches
    by itself. A ranker is given the first stage's best ``depth`` passages, and its time is
    that of both.

    Args:
        data: A folder in BEIR's layout, or a set by :func:`~rerank_plugins.evaluation.read_beir`,
            :func:`~rerank_plugins.evaluation.from_documents` or
            :func:`~rerank_plugins.evaluation.from_frames`.
        systems: By name: a ``BiEncoder``, ``Reranker``, ``Cascade``; a retriever or compressor
            of LangChain; a retriever or postprocessor of LlamaIndex; a function ``query ->
            documents, nodes, ids or texts`` or ``(query, texts) -> one score a text``; a
            mapping from question id to ranked ids.
        first_stage: The retriever that finds candidates for rankers; None is the embedded
            bi-encoder.
        depth: How many candidates, and the most that counts of what a retriever returns.
        measures: Names of ir_measures.
        split: Which judgments of a folder.
        show_progress: Whether to show progress bars; None shows them in a terminal.

    Raises:
        ConfigurationError: If a system cannot be used, or a measure is none.
        InvalidInputError: If the set is empty or without judgments, or a system returns what
            is not in it.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    data = as_set(data, split)
    if not data.qrels:
        message = "the set has no judgments; without them only `plan` can say something."
        raise InvalidInputError(message)
    if not isinstance(systems, Mapping) or not systems:
        message = 'systems is empty or no mapping; give them names: {"mini": Reranker()}.'
        raise ConfigurationError(message)
    check_count("depth", depth)
    rankers = {name: as_system(given, data, depth) for name, given in systems.items()}
    first: System | None = None
    if any(one.needs_candidates for one in rankers.values()):
        first = as_system(BiEncoder() if first_stage is None else first_stage, data, depth)
        if first.needs_candidates:
            message = "first_stage orders candidates; it must be a retriever, which finds them."
            raise ConfigurationError(message)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    found, first_seconds, *_ = _run(first, data, {}, "First stage", show=show)
    results = []
    for name, system in rankers.items():
        candidates = found if system.needs_candidates else {}
        answers, seconds, memory = _run(system, data, candidates, name, show=show)
        before = first_seconds if system.needs_candidates else [0.0] * len(seconds)
        values = per_query(data.qrels, {key: one.ids for key, one in answers.items()}, measures)
        results.append(
            SystemResult(
                name,
                tuple(tuple(answers[key].ids) for key in data.queries),
                {measure: tuple(row.tolist()) for measure, row in values.items()},
                tuple(own + other for own, other in zip(seconds, before, strict=True)),
                tuple(before),
                memory.resident_mib,
                memory.cuda_mib,
            )
        )
    return Evaluation(
        len(data.passages),
        depth,
        tuple(data.queries),
        tuple(measures),
        tuple(results),
        environment(),
    )


def _run(
    system: System | None,
    data: RetrievalSet,
    candidates: Mapping[str, Found],
    title: str,
    *,
    show: bool,
) -> tuple[dict[str, Found], list[float], PeakMemory]:
    """Ask a system all questions; return its answers and the seconds of each."""
    answers: dict[str, Found] = {}
    seconds: list[float] = []
    memory = PeakMemory()
    if system is None:
        return answers, seconds, memory
    nothing = Found([])
    asked = list(data.queries)
    system(asked[0], candidates.get(asked[0], nothing))
    for (query,) in chunks(asked, 1, title, show=show):
        start = perf_counter()
        answers[query] = system(query, candidates.get(query, nothing))
        seconds.append(perf_counter() - start)
    return answers, seconds, memory


def environment() -> dict[str, Any]:
    """Return what a measurement depends on: machine, versions; no host name."""
    packages = ("torch", "transformers", "sentence-transformers", "numpy")
    return {
        "rerank_plugins": __version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
