"""Strategies for the files of a model: absurd sizes, unusual tokenizers, invalid weights."""

from __future__ import annotations

import json
import struct
from typing import Any, Final

from hypothesis import strategies as st

from tests.robustness.fuzz.mutations import changed, damaged, encoded

RULES: Final = (
    {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 10},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
    {"type": "Replace", "pattern": {"Regex": ""}, "content": "b"},
    {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
    {"type": "Replace", "pattern": {"String": ""}, "content": "xyz"},
    {"type": "Prepend", "prepend": "z" * 1_000},
    {"type": "ByteLevel"}, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
)  # fmt: skip
SPLITS: Final = (
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False},
    {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Removed", "invert": False},
    {"type": "Whitespace"}, {"type": "Digits", "individual_digits": True},
    {"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": True},
)  # fmt: skip
_PADDING: Final = {
    "strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": 10**12,
    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
}  # fmt: skip
_TRUNCATION: Final = {
    "direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10**12,
}  # fmt: skip


def sizes(settings: dict[str, Any], names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Return configurations with some sizes changed, also to absurd values."""
    number = st.integers(-1, 40) | st.integers(0, 9).map(lambda exponent: 10**exponent)
    changes = st.dictionaries(st.sampled_from(names), number, min_size=1, max_size=3)
    return changes.map(lambda drawn: {**settings, **drawn})


def rules(tokenizer: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return tokenizers with unusual normalization, splitting, padding and truncation."""
    return st.fixed_dictionaries(
        {},
        optional={
            "normalizer": st.lists(st.sampled_from(RULES), max_size=40).map(
                lambda drawn: {"type": "Sequence", "normalizers": drawn}
            ),
            "pre_tokenizer": st.lists(st.sampled_from(SPLITS), max_size=40).map(
                lambda drawn: {"type": "Sequence", "pretokenizers": drawn}
            ),
            "padding": changed(_PADDING), "truncation": changed(_TRUNCATION),
        },
    ).map(lambda drawn: {**tokenizer, **drawn})  # fmt: skip


def header_of(weights: bytes) -> dict[str, Any]:
    """Return the header of a safetensors file."""
    header: dict[str, Any] = json.loads(weights[8 : _start(weights)])
    return header


def _start(weights: bytes) -> int:
    length: int = struct.unpack("<Q", weights[:8])[0]
    return 8 + length


@st.composite
def weights(draw: st.DrawFn, sound: bytes) -> bytes:
    """Draw a safetensors file with a false header or damaged bytes."""
    tensors = sound[_start(sound) :]
    if draw(st.booleans()):
        return draw(damaged(sound[: _start(sound)])) + tensors
    header = encoded(draw(changed(header_of(sound), ("evil", "__metadata__"))))
    announced = draw(
        st.sampled_from([len(header)] * 4 + [0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(header) - 1])
    )
    return struct.pack("<Q", announced) + header + tensors[: draw(st.sampled_from([None, 0, 100]))]
