"""Keys and values of the disk cache: distinct keys, exact values, damage is a miss."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.engine.backend import RoleText
from rerank_plugins.engine.cache import CacheEntry
from rerank_plugins.engine.disk_cache import DiskKeys, pack, unpack
from rerank_plugins.types import ModelIdentity, TextPair
from tests.helpers.strategies import any_text

PINNED = ModelIdentity("model", "v1", "torch", "float32", 512, "f" * 64)
KEY = b"k" * 32

items = st.one_of(
    st.builds(TextPair, any_text, any_text),
    st.builds(RoleText, any_text, st.sampled_from(["query", "document"]), st.none() | any_text),
)
scores = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(items, st.none() | st.integers(16, 600)), min_size=2, max_size=12))
def test_equal_keys_mean_equal_items(pairs: list[tuple[TextPair | RoleText, int | None]]) -> None:
    """Lengths beyond the model's maximum length equal that length."""
    keys = DiskKeys(PINNED)
    by_key = {
        keys.key(item, length): (type(item), item, min(length or 512, 512))
        for item, length in pairs
    }
    expected = {(type(item), item, min(length or 512, 512)) for item, length in pairs}
    assert set(by_key.values()) == expected
    assert len(by_key) == len(expected)


def test_texts_are_not_concatenated() -> None:
    keys = DiskKeys(PINNED)
    alike = [
        TextPair("ab", "c"),
        TextPair("a", "bc"),
        TextPair("abc", ""),
        TextPair("", "abc"),
        RoleText("abc", "query"),
        RoleText("abc", "query", ""),
        RoleText("abc", "document"),
        RoleText("", "query", "abc"),
        ("ab", "c"),
    ]
    assert len({keys.key(item, None) for item in alike}) == len(alike)


def test_every_field_of_the_identity_is_part_of_the_key() -> None:
    others = ModelIdentity("other", "v2", "openvino", "bfloat16", 256, "e" * 64)
    item = TextPair("query", "text")
    key = DiskKeys(PINNED).key(item, 64)
    for field in fields(ModelIdentity):
        other = DiskKeys(replace(PINNED, **{field.name: getattr(others, field.name)})).key(item, 64)
        # A fingerprint replaces the name and the revision.
        assert (other == key) == (field.name in {"model", "revision"}), field.name
        plain = replace(PINNED, fingerprint="")
        changed = replace(plain, **{field.name: getattr(others, field.name)})
        assert DiskKeys(changed).key(item, 64) != DiskKeys(plain).key(item, 64), field.name


@given(st.lists(scores, min_size=1, max_size=8), st.integers(0, 2**32 - 1), st.booleans())
def test_values_are_restored_exactly(row: list[float], tokens: int, truncated: bool) -> None:
    vector = np.array(row, dtype=np.float32)
    for value in (vector, vector[0]):
        read = unpack(KEY, pack(KEY, CacheEntry(value, tokens, truncated)), np.shape(value))
        assert read is not None
        assert read.from_disk
        assert (read.tokens, read.truncated) == (tokens, truncated)
        assert read.row.dtype == np.float32
        assert read.row.tobytes() == value.tobytes()
        read.row.fill(0)  # the row is writable


def test_any_changed_bit_is_a_miss() -> None:
    value = pack(KEY, CacheEntry(np.float32(1.5), 7, truncated=False))  # type: ignore[arg-type]
    assert unpack(KEY, value, ()) is not None
    assert unpack(b"x" * 32, value, ()) is None
    for bit in range(8 * len(value)):
        broken = bytearray(value)
        broken[bit // 8] ^= 1 << bit % 8
        assert unpack(KEY, bytes(broken), ()) is None


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_result_that_is_not_finite_is_a_miss(number: float) -> None:
    row = np.array([1.0, number], dtype=np.float32)
    assert unpack(KEY, pack(KEY, CacheEntry(row, 7, truncated=False)), (2,)) is None


def test_another_shape_is_a_miss() -> None:
    value = pack(KEY, CacheEntry(np.ones(3, dtype=np.float32), 7, truncated=False))
    assert unpack(KEY, value, (3,)) is not None
    for shape in ((), (2,), (4,)):
        assert unpack(KEY, value, shape) is None
    for other in (None, "text", 1, b""):
        assert unpack(KEY, other, (3,)) is None
