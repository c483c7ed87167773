"""What spans say of a ranking: OpenInference's attributes and our own; no text among them.

Source: https://arize-ai.github.io/openinference/spec/semantic_conventions.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rerank_plugins.core.policy import RerankConfig
    from rerank_plugins.core.scored import Task
    from rerank_plugins.core.types import Ranking

Value = str | int | float
Attributes = dict[str, Value]

OURS: Final = "rerank_plugins."
KIND: Final = "openinference.span.kind"
MODEL: Final = "reranker.model_name"
TOP_K: Final = "reranker.top_k"
INPUT: Final = "reranker.input_documents"
OUTPUT: Final = "reranker.output_documents"

DOCUMENTS: Final = 20
"""Documents listed of each kind: an SDK keeps 128 attributes a span, and drops the oldest."""

_SUMMED: Final = ("documents", "scored", "pairs", "tokens", "truncated")
_SHARED: Final = ("batches", "cache_hits", "disk_hits", "queue_s", "compute_s")
"""Of all queries of a call together, so that their rankings repeat them."""


def asked(tasks: Sequence[Task], config: RerankConfig, model: str) -> Attributes:
    """Return what is known when a call begins."""
    documents = sum(len(task.texts) for task in tasks)
    attributes: Attributes = {
        KIND: "RERANKER",
        MODEL: model,
        TOP_K: documents if config.top_n is None else config.top_n,
        f"{OURS}queries": len(tasks),
        f"{OURS}documents": documents,
    }
    if len(tasks) == 1:
        attributes |= _listed(INPUT, _inputs(tasks[0]))
    return attributes


def answered(rankings: Sequence[Ranking]) -> Attributes:
    """Return what is known when it ends."""
    stats = [ranking.stats for ranking in rankings]
    attributes: Attributes = {
        f"{OURS}returned": sum(len(ranking) for ranking in rankings),
        **{f"{OURS}{name}": sum(getattr(one, name) for one in stats) for name in _SUMMED},
        **{f"{OURS}{name}": max(getattr(one, name) for one in stats) for name in _SHARED},
    }
    worst = [status for status in ("failed", "partial") if status in {r.status for r in rankings}]
    attributes[f"{OURS}status"] = worst[0] if worst else "complete"
    models = [ranking.model for ranking in rankings if ranking.model is not None]
    if models:
        attributes[MODEL] = models[-1].model
    if len(rankings) == 1:
        found = ((one.index, one.relevance_score) for one in rankings[0])
        attributes |= _listed(OUTPUT, found)
    return attributes


def _inputs(task: Task) -> Iterator[tuple[int, float]]:
    for index in range(len(task.texts)):
        yield index, math.nan if task.first_stage is None else float(task.first_stage[index])


def _listed(name: str, documents: Iterator[tuple[int, float]]) -> Attributes:
    """Return the first documents: places in the caller's input as ids, and known scores."""
    attributes: Attributes = {}
    for place, (index, score) in zip(range(DOCUMENTS), documents, strict=False):
        attributes[f"{name}.{place}.document.id"] = str(index)
        if not math.isnan(score):
            attributes[f"{name}.{place}.document.score"] = score
    return attributes
