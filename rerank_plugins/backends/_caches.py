"""What transformers calls the keys and values computed before; 5.24 gave them another name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

_NAME: Final = "cache"
_OLD_NAME: Final = "past_key_values"


def cache_argument(function: Callable[..., Any]) -> str:
    """Return the name of the argument by which a function takes keys and values."""
    return _NAME if _NAME in inspect.signature(function).parameters else _OLD_NAME
