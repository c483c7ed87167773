"""Futures that a forked child must not wait for: the threads that would set them stay behind."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any
from weakref import WeakKeyDictionary

from rerank_plugins.errors import EngineClosedError

_waiting: WeakKeyDictionary[Future[Any], str] = WeakKeyDictionary()


def end_in_child(future: Future[Any], name: str) -> None:
    """Have a future end with an error in every child that is forked before it is done.

    Args:
        future: What somebody waits for.
        name: Of the engine that computes it.
    """
    _waiting[future] = name
    future.add_done_callback(_forget)


def made_before_fork(name: str) -> EngineClosedError:
    """Return the error for using, in a child, what belongs to its parent."""
    return EngineClosedError(f"{name} was made before a fork. Ask for a new engine.")


def _forget(future: Future[Any]) -> None:
    _waiting.pop(future, None)


def _in_child() -> None:
    """End what was waited for. Callbacks are the parent's, and are called there."""
    for future, name in list(_waiting.items()):
        # Anew, for another thread of the parent may have held its lock.
        Future.__init__(future)
        future.set_exception(made_before_fork(name))
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
