"""Strategies for any JSON and for changed or damaged valid files."""

from __future__ import annotations

import copy
import json
import random
from typing import Any, Final

from hypothesis import strategies as st

UNUSUAL: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, -(2**31), 2**63, 10**12, 10**30, 1e308, -0.0, 0.5,
    float("nan"), float("inf"), "", " ", "\0", "\ud800", "a", "..", "../..", "../outside", "/etc",
    "/etc/passwd", "C:\\x", "\u202e", "x" * 5_000, "1", "nan", "__class__", [], [[]], {}, {"": {}},
    [0] * 50, ["a", "b"], [None], {"a": 1},
)  # fmt: skip
"""Values that code often does not expect."""

any_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=15,
)
"""Any JSON, including NaN and infinities, which the standard does not allow."""

unusual = st.sampled_from(UNUSUAL).map(copy.deepcopy) | any_json


def _path(draw: st.DrawFn, value: Any) -> tuple[Any, ...]:
    """Draw the path of a value within a JSON value, at any level."""
    path: tuple[Any, ...] = ()
    while isinstance(value, (dict, list)) and value:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        path = (*path, draw(st.sampled_from(keys)))
        value = value[path[-1]]
        if draw(st.booleans()):
            break
    return path


def _holder(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


@st.composite
def changed(draw: st.DrawFn, valid: Any, names: tuple[str, ...] = ()) -> Any:
    """Draw a JSON value that differs from a valid one in one to three places.

    Args:
        draw: Argument of Hypothesis.
        valid: Value to change; it is not modified.
        names: Names of additional members of objects.
    """
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        path = _path(draw, value)
        action = draw(st.sampled_from(["set", "set", "drop", "copy", "deep", "add"]))
        if not path or action == "add":
            if isinstance(value, dict) and names:
                value[draw(st.sampled_from(names))] = draw(unusual)
            continue
        holder, key = _holder(value, path), path[-1]
        if action == "set":
            holder[key] = draw(unusual)
        elif action == "drop":
            del holder[key]
        elif action == "copy":
            other = _path(draw, value)
            holder[key] = copy.deepcopy(_holder(value, other)[other[-1]])
        else:
            for _ in range(draw(st.sampled_from([1, 30, 600]))):
                holder[key] = [holder[key]]
    return value


def encoded(value: Any) -> bytes:
    """Return JSON as bytes; a value too deep for Python's encoder becomes nested arrays."""
    try:
        return json.dumps(value).encode()
    except (RecursionError, ValueError):
        return b"[" * 5_000 + b"]" * 5_000


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw bytes that differ from valid ones: flipped, removed, repeated or inserted."""
    data = bytearray(valid)
    action = draw(st.sampled_from(["flip", "flip", "cut", "insert", "repeat", "zero", "head"]))
    generator = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311
    at = generator.randrange(len(data))
    if action == "flip":
        for _ in range(draw(st.sampled_from([1, 2, 20]))):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    elif action == "cut":
        del data[at:]
    elif action == "insert":
        data[at:at] = draw(st.binary(min_size=1, max_size=20))
    elif action == "repeat":
        data[at:at] = data[at : at + 4_096]
    elif action == "zero":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    else:
        data[: min(len(data), 16)] = draw(st.binary(min_size=16, max_size=16))
    return bytes(data)
