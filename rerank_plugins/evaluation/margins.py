"""When the cheap stages of a cascade are sure enough, from labelled queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.cascade import Cascade
from rerank_plugins.core.cascade_run import lead
from rerank_plugins.core.checks import check_count, check_number
from rerank_plugins.core.inputs import check_tasks
from rerank_plugins.core.policy import RerankConfig
from rerank_plugins.core.ranked import make_ranking
from rerank_plugins.core.scored import Scored, Task
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.metrics import Scores, per_query

_FOLDS: Final = 5


class LabelledQuery(NamedTuple):
    """A query, its candidates in first-stage order, and the grade of each (0: irrelevant)."""

    query: str
    documents: Sequence[str]
    grades: Sequence[int]


@dataclass(frozen=True)
class FittedMargin:
    """A margin and what it costs.

    Attributes:
        margin: What to set on the stage; None if only never stopping keeps the bound.
        cascade: The cascade with that margin.
        loss: Mean loss of the measure on the queries it was fitted on.
        stopped: Share of those queries that end early.
        held_out_loss: Mean loss on folds that the margin was not fitted on. This, not
            ``loss``, is what new queries have to expect.
        held_out_stopped: Share of queries that end early there.
    """

    margin: float | None
    cascade: Cascade
    loss: float
    stopped: float
    held_out_loss: float
    held_out_stopped: float


def fit_margin(
    cascade: Cascade,
    queries: Sequence[LabelledQuery],
    loss: float = 0.01,
    measure: str = "nDCG@10",
    *,
    stage: int = 0,
    folds: int = _FOLDS,
    seed: int = 0,
) -> FittedMargin:
    """Find the smallest margin of a stage that keeps the loss under a bound.

    Sure is a stage whose best raw score leads the second by the margin. The margin chosen is
    the smallest for which it and every larger one lose at most ``loss`` on average against the
    cascade that never ends at this stage.

    Args:
        cascade: A cascade of at least two stages; a margin that the stage has is passed over.
        queries: At least as many as ``folds``; some hundred make a margin that holds.
        loss: Largest mean loss, in units of the measure.
        measure: Name of an ir_measure.
        stage: Which stage may end the cascade; not the last.
        folds: How many parts are held out, one after the other.
        seed: Of the division into parts.

    Raises:
        ConfigurationError: If a setting is out of range.
        InvalidInputError: If there are too few queries or grades.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    check_number("loss", loss, low=0)
    check_count("folds", folds, least=2)
    check_count("stage", stage, least=0)
    if stage >= len(cascade.stages) - 1:
        message = f"stage is {stage}; it must be before the last one, {len(cascade.stages) - 1}."
        raise ConfigurationError(message)
    _check_queries(queries, folds)
    whole = _with_margin(cascade, stage, None)
    ending = replace(whole.stages[stage], keep=None)
    early = Cascade([*whole.stages[:stage], ending])
    tasks = check_tasks(((one.query, one.documents) for one in queries), None)
    ended = early.score_tasks(tasks)
    full = _measured(tasks, whole.score_tasks(tasks), queries, measure)
    losses = full - _measured(tasks, ended, queries, measure)
    leads = np.array([_lead(answer, stage) for answer in ended])
    part = np.random.default_rng(seed).permutation(len(queries)) % folds
    held_out = np.zeros(len(queries), dtype=np.bool_)
    for number in range(folds):
        out = part == number
        held_out[out] = leads[out] >= _smallest(leads[~out], losses[~out], loss)
    margin = _smallest(leads, losses, loss)
    stopped = leads >= margin
    finite = margin if math.isfinite(margin) else None
    return FittedMargin(
        margin=finite,
        cascade=_with_margin(cascade, stage, finite),
        loss=float((losses * stopped).mean()),
        stopped=float(stopped.mean()),
        held_out_loss=float((losses * held_out).mean()),
        held_out_stopped=float(held_out.mean()),
    )


def _smallest(leads: Scores, losses: Scores, bound: float) -> float:
    """Return the smallest lead from which on ending early loses at most the bound."""
    thresholds = np.unique(leads[np.isfinite(leads)])[::-1]
    best = math.nan  # nothing leads by as much
    for threshold in thresholds.tolist():
        if (losses * (leads >= threshold)).mean() > bound:
            break
        best = threshold
    return best


def _lead(answer: Scored, stage: int) -> float:
    """Return the lead in a stage; NaN if one before it ended the cascade."""
    scores = answer.scores[answer.stage == stage]
    return lead(scores) if len(scores) else math.nan


def _with_margin(cascade: Cascade, stage: int, margin: float | None) -> Cascade:
    stages = list(cascade.stages)
    stages[stage] = replace(stages[stage], margin=margin)
    return Cascade(stages)


def _measured(
    tasks: Sequence[Task],
    answers: Sequence[Scored],
    queries: Sequence[LabelledQuery],
    measure: str,
) -> NDArray[np.float64]:
    qrels = {
        str(number): {str(index): int(grade) for index, grade in enumerate(one.grades)}
        for number, one in enumerate(queries)
    }
    run = {
        str(number): [str(one.index) for one in make_ranking(task, answer, RerankConfig())]
        for number, (task, answer) in enumerate(zip(tasks, answers, strict=True))
    }
    return per_query(qrels, run, [measure])[measure]


def _check_queries(queries: Sequence[LabelledQuery], folds: int) -> None:
    if len(queries) < folds:
        message = f"there are {len(queries)} queries for {folds} folds; give more queries."
        raise InvalidInputError(message)
    for number, one in enumerate(queries):
        if len(one.documents) != len(one.grades) or not one.documents:
            message = (
                f"query {number} has {len(one.documents)} documents and {len(one.grades)} grades; "
                "give one grade a document, and at least one document."
            )
            raise InvalidInputError(message)
