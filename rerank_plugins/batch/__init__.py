"""Ranking of many queries from files to files, which can be interrupted (extra ``batch``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.batch.job import BatchSettings, BatchSummary, rerank_files

__all__ = ["BatchSettings", "BatchSummary", "rerank_files"]

_HOMES = dict.fromkeys(__all__, "rerank_plugins.batch.job")

__getattr__, __dir__ = lazy_names(__name__, _HOMES, needs=("pyarrow", "batch"))
