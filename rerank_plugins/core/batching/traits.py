"""What a backend may say of itself beyond its protocol, and what holds if it says nothing."""

from __future__ import annotations

from typing import Any

from rerank_plugins.core.batching.job_queue import PREPARE_ITEMS
from rerank_plugins.core.checks import check_count
from rerank_plugins.core.protocols import Backend


def workers(backend: Backend[Any]) -> int:
    """Return how many batches may run at once: its attribute ``workers``, or one.

    A backend on several devices or servers says more; its ``run`` is then called from so
    many threads.

    Raises:
        ConfigurationError: If it is no count.
    """
    return _count(backend, "workers", 1)


def prepare_items(backend: Backend[Any]) -> int:
    """Return how many items of a request are prepared at once, at most.

    Its attribute ``prepare_items``, or :data:`PREPARE_ITEMS`. A backend that does not
    tokenise says more, so that a request of a hundred texts is one batch.

    Raises:
        ConfigurationError: If it is no count.
    """
    return _count(backend, "prepare_items", PREPARE_ITEMS)


def _count(backend: Backend[Any], name: str, default: int) -> int:
    return check_count(name, getattr(backend, name, None), f"for {default}") or default
