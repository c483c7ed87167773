"""What transformers calls the keys and values computed before; 5.24 gave them another name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Final

_NAME: Final = "cache"
_OLD_NAME: Final = "past_key_values"


def with_cache(function: Callable[..., Any], value: object) -> dict[str, Any]:
    """Return the keyword argument that hands a function keys and values, or None."""
    return {_argument(getattr(function, "__func__", function)): value}


@cache
def _argument(function: Callable[..., Any]) -> str:
    return _NAME if _NAME in inspect.signature(function).parameters else _OLD_NAME
