"""From a task's scores to its :class:`Ranking`: relevance, order, threshold, ``top_n``."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.fusion import fuse
from rerank_plugins.core.ordering import activate, order
from rerank_plugins.core.policy import RerankConfig
from rerank_plugins.core.scored import NOT_SCORED, Scored, Scorer, Task
from rerank_plugins.core.types import RankedDocument, Ranking
from rerank_plugins.errors import ConfigurationError


def check_scale(scorer: Scorer, config: RerankConfig) -> None:
    """Refuse what compares scores, where not all rankings have them from the same model.

    Raises:
        ConfigurationError: If a cascade that may end early goes with a threshold or calibrator.
    """
    if not getattr(scorer, "ends_early", False):
        return
    for name in ("score_threshold", "calibrator"):
        if getattr(config, name) is not None:
            message = (
                f"{name} is set, and a stage of the cascade has a margin: a query that ends there "
                "has that stage's scores, on another scale. Leave one of them out."
            )
            raise ConfigurationError(message)


def make_ranking(task: Task, scored: Scored, config: RerankConfig) -> Ranking:
    """Return the ranking of a task, without ``top_n``.

    Documents that the last model scored come first, by relevance; then those of the stages
    before it, each by its own scores; then, in the input's order, those that none scored.

    Args:
        task: What was asked.
        scored: What it was answered.
        config: The policy.

    Raises:
        ConfigurationError: If the calibrator belongs to another model.
    """
    last = scored.stage.max(initial=NOT_SCORED)
    final = (scored.stage == last) & (last != NOT_SCORED) & scored.final
    raw = np.where(final, scored.scores, np.float32(np.nan))
    relevance = _relevance(task, scored, raw, config)
    places = order(scored.stage, _keys(task, scored, final, relevance, config))
    documents = [
        RankedDocument(
            index=index,
            relevance_score=shown,
            raw_score=score,
            text=task.texts[index],
            truncated=truncated,
            scored=is_final,
            window=scored.windows[index],
            first_stage=None if task.first_stage is None else float(task.first_stage[index]),
        )
        for index, shown, score, truncated, is_final in zip(
            places.tolist(),
            relevance[places].tolist(),
            raw[places].tolist(),
            scored.truncated[places].tolist(),
            final[places].tolist(),
            strict=True,
        )
        if not _below(shown, config.score_threshold)
    ]
    return Ranking(
        query=task.query,
        documents=tuple(documents),
        model=scored.model,
        stats=scored.stats,
        status=scored.status,
        error=scored.error,
        scoring=scored.scoring,
    )


def _relevance(
    task: Task, scored: Scored, raw: NDArray[np.float32], config: RerankConfig
) -> NDArray[np.float64]:
    if config.fusion != "none":
        return fuse(raw, task.first_stage, config.fusion, config.fusion_weight)
    if config.calibrator is None or scored.model is None:
        return activate(raw, config.activation, scored.scale)
    config.calibrator.check(scored.model)
    return config.calibrator(raw)


def _keys(
    task: Task,
    scored: Scored,
    final: NDArray[np.bool_],
    relevance: NDArray[np.float64],
    config: RerankConfig,
) -> NDArray[np.float64]:
    """Return what sorts the documents of each stage.

    Raw scores, as a sigmoid saturates; fused ones where there are any. What nobody scored
    keeps the first stage's order: that of its scores in a fusion, else the input's.
    """
    keys = scored.scores.astype(np.float64)
    if config.fusion != "none":
        keys[final] = relevance[final]
    unknown = scored.stage == NOT_SCORED
    first = task.first_stage if config.fusion != "none" else None
    keys[unknown] = 0.0 if first is None else first[unknown]
    return keys


def _below(relevance: float, threshold: float | None) -> bool:
    """Return whether a score is below the threshold; one that is not known is not."""
    return threshold is not None and not math.isnan(relevance) and relevance < threshold
