"""Models x depths x options on one set, sharing all work between them; can be interrupted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from rerank_plugins._progress import chunks
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.checks import check_count
from rerank_plugins.core.config import MINI
from rerank_plugins.core.fusion import fuse, fused_order
from rerank_plugins.core.protocols import CrossEncoderBackend
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.beir import RetrievalSet
from rerank_plugins.evaluation.cells import Cell, Sweep, measured, read_cell, write_cell
from rerank_plugins.evaluation.pools import PairScores, Pool, by_score, digest
from rerank_plugins.evaluation.running import MEASURES, environment
from rerank_plugins.evaluation.sets import as_set

DEPTHS: Final = (10, 20, 50, 100, 200, 1000)

FUSING: Final = frozenset({"fusion", "fusion_weight"})
"""Options that need no new scores."""

READING: Final = frozenset(
    {
        *("backend", "device", "dtype", "max_length", "revision", "cache_folder"),
        *("local_files_only", "trust_remote_code", "query_prompt", "document_prompt"),
        *("long_documents", "window_overlap", "max_windows", "best_windows"),
    }
)
_NDCG_DEPTH: Final = 100
"""Candidates that measures may look at, even where fewer are reranked."""


@dataclass(frozen=True)
class _Setup:
    model: str | Path | CrossEncoderBackend
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        if isinstance(self.model, (str, Path)):
            return str(self.model)
        return self.model.identity.model

    def reranker(self) -> Reranker:
        return Reranker(self.model, **self.options)

    def reader(self) -> Reranker:
        """Return what computes the scores that all fusions share."""
        how = {name: value for name, value in self.options.items() if name in READING}
        return Reranker(self.model, **how)


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
    """Measure every model at every depth with every option, and the bi-encoder alone.

    Passages are embedded once, and each pair is scored once by each model: a shallow depth is
    the beginning of a deep one. Times are taken apart from that, on some questions that are
    answered anew from the start, one after the other.

    Args:
        data: A folder in BEIR's layout, or a set with judgments.
        models: Cross-encoders: names, folders or backend objects.
        depths: How many candidates to rerank; what is behind them stays behind. More than
            there are passages is all of them.
        options: Settings of :class:`~rerank_plugins.Reranker` to try: those of how it reads
            and computes (``dtype``, ``max_length``, ``long_documents`` ...) and its fusion.
        encoder: The bi-encoder, or its name.
        measures: Names of ir_measures.
        split: Which judgments of a folder.
        folder: Where results are kept as they come: the same call goes on after an
            interruption. None keeps none.
        timed_questions: How many questions to take the time of, at each depth.
        show_progress: Whether to show progress bars; None shows them in a terminal.

    Raises:
        ConfigurationError: If a setting is out of range.
        InvalidInputError: If the set is empty or has no judgments.
        InferenceError: If a model fails.
    """
    data = as_set(data, split)
    if not data.qrels:
        message = "the set has no judgments; without them there is no quality to measure."
        raise InvalidInputError(message)
    check_count("timed_questions", timed_questions)
    usable = _depths(depths, len(data.passages))
    setups = [_Setup(model, _checked(chosen)) for model in models for chosen in options]
    show = sys.stderr.isatty() if show_progress is None else show_progress
    kept = None if folder is None else Path(folder).expanduser()
    encoder = encoder if isinstance(encoder, BiEncoder) else BiEncoder(encoder)
    pool = Pool(data, encoder, max(*usable, _NDCG_DEPTH), kept)
    rows = np.random.default_rng(0).permutation(len(pool.questions))[:timed_questions].tolist()
    alone = {one: pool.ids(row, range(pool.depth)) for row, one in enumerate(pool.questions)}
    cells = [measured(pool, alone, measures, rows)]
    for setup in setups:
        cells += _cells(pool, setup, usable, measures=measures, rows=rows, folder=kept, show=show)
    return Sweep(
        len(data.passages), tuple(pool.questions), tuple(measures), tuple(cells), environment()
    )


def _cells(
    pool: Pool,
    setup: _Setup,
    depths: Sequence[int],
    *,
    measures: Sequence[str],
    rows: Sequence[int],
    folder: Path | None,
    show: bool,
) -> Iterator[Cell]:
    """Yield the cells of one model with one option, from the shallowest."""
    reader = setup.reader().warm_up()
    read = json.dumps(
        {name: str(setup.options[name]) for name in sorted(READING & setup.options.keys())}
    )
    key = digest(pool.key, repr(reader.engine.identity), read)
    scores = PairScores(pool, reader, folder and folder / f"scores-{key}.npy")
    told = json.dumps(
        [dict(setup.options), list(measures), pool.data.qrels, list(rows)], default=str
    )
    for depth in depths:
        file = folder and folder / f"cell-{digest(key, told)}-{depth}.json"
        cell = read_cell(file)
        if cell is None:
            title = f"{setup.name}, best {depth}"
            for (row,) in chunks(range(len(pool.questions)), 1, title, show=show):
                scores.score(row, range(depth))
            scores.save()
            ranked = {
                one: pool.ids(row, _order(scores.values[row], pool.cosines[row], depth, setup))
                for row, one in enumerate(pool.questions)
            }
            cell = measured(
                pool,
                ranked,
                measures,
                rows,
                ranker=setup.reranker(),
                model=setup.name,
                options=setup.options,
                depth=depth,
            )
            write_cell(file, cell)
        yield cell


def _order(scores: Any, cosines: Any, depth: int, setup: _Setup) -> Any:  # noqa: ANN401  (arrays)
    method = setup.options.get("fusion", "none")
    if method == "none":
        return by_score(scores, depth)
    first = cosines[:depth]
    fused = fuse(scores[:depth], first, method, setup.options.get("fusion_weight", 0.5))
    return np.concatenate([fused_order(fused, first), np.arange(depth, len(scores))])


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    odd = sorted(options.keys() - READING - FUSING)
    if odd:
        message = f"options hold {odd[0]!r}; a sweep tries {', '.join(sorted(READING | FUSING))}."
        raise ConfigurationError(message)
    Reranker(**options)  # says what is wrong with a value before anything is computed
    return dict(options)


def _depths(depths: Sequence[int], passages: int) -> list[int]:
    if not depths:
        message = "depths is empty; give at least one number of candidates."
        raise ConfigurationError(message)
    for depth in depths:
        check_count("depths", depth)
    return sorted({min(depth, passages) for depth in depths})
