"""Tokenizers that make much of little: a few rules can turn a word into gigabytes."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any, Final

from rerank_plugins.errors import ModelLoadError

_MOST: Final = 64
"""How many times longer a text may become; NFKC's longest letter becomes 18 of two bytes."""

_SIZE_BYTES: Final = 4
"""A compiled table begins with the length of its tree; its texts come after that."""


def check_tokenizer(settings: Any, where: str) -> None:  # noqa: ANN401  (any JSON)
    """Check that a tokenizer's rules, one after the other, do not make texts far longer.

    The Rust library ends the process when there is no memory left.

    Args:
        settings: What ``tokenizer.json`` holds; None where there is none.
        where: The file, for messages.

    Raises:
        ModelLoadError: If they do.
    """
    if not isinstance(settings, dict):
        return
    parts = (settings.get("normalizer"), settings.get("pre_tokenizer"))
    try:
        longer = math.prod(_growth(rule) for part in parts for rule in _rules(part))
    except (AttributeError, TypeError, ValueError, RecursionError):
        return  # the loader says what is wrong with it
    if longer > _MOST:
        message = (
            f"the rules of {where} make a text up to {longer:.3g} times longer; at most {_MOST} is "
            "allowed. The file is damaged, or made to fill the memory: do not trust this model."
        )
        raise ModelLoadError(message)


def _rules(part: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  (any JSON)
    """Yield the rules of a sequence, and of those within it."""
    if part is None:
        return
    inner = part.get("normalizers") or part.get("pretokenizers")
    if inner is None:
        yield part
    for one in inner or ():
        yield from _rules(one)


def _growth(rule: dict[str, Any]) -> float:
    """Return how many times longer a rule can make a text, at least 1."""
    kind = rule.get("type")
    if kind == "Replace":
        pattern = rule["pattern"].get("String")
        # An expression may match what is empty, between any two letters.
        return max(1.0, len(rule["content"]) / len(pattern) if pattern else len(rule["content"]))
    if kind == "ByteLevel":
        return 2.0
    if kind == "Precompiled":
        table = base64.b64decode(rule["precompiled_charsmap"])
        start = _SIZE_BYTES + int.from_bytes(table[:_SIZE_BYTES], "little")
        return float(max(map(len, table[start:].split(b"\0")), default=1) or 1)
    return 1.0
