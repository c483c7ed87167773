"""The fuzzing itself: it counts inputs, and it finds what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from benchmarks.robustness import fuzz
from tests.robustness.fuzz import fuzz_budget as effort
from tests.robustness.fuzz.mutations import changed, damaged


@pytest.mark.slow
def test_a_target_is_fuzzed_and_counted() -> None:
    target = "tests/robustness/fuzz/test_stored_data.py::test_any_calibrator_is_refused_or_monotone"
    rows, status = fuzz(0.05, target)
    assert status == 0
    metrics = {row.metric: row.value for row in rows if row.system}
    assert {row.system for row in rows} == {"", "any calibrator is refused or monotone"}
    assert metrics["held"]
    assert metrics["inputs"] > 20


def test_what_breaks_is_found_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "SECONDS", 5.0)
    monkeypatch.setattr(effort, "COUNTS", str(tmp_path / "counts"))

    def breaks(number: int) -> None:
        assert number < 1_000

    target = effort.fuzz(few=1, many=1, number=st.integers())(breaks)
    with pytest.raises(AssertionError):
        target("long")
    found = json.loads((tmp_path / "counts").read_text("utf-8"))
    assert found["examples"] > 1
    assert not found["sound"]


def test_mutations_change_what_they_are_given() -> None:
    valid = {"a": [1, {"b": None}], "c": "d"}
    seen: list[object] = []

    def note(value: object, data: bytes) -> None:
        seen.append(value)
        assert isinstance(data, bytes)

    effort.fuzz(few=50, many=50, value=changed(valid), data=damaged(b"sound"))(note)("few")
    assert valid == {"a": [1, {"b": None}], "c": "d"}
    assert sum(value != valid for value in seen) > len(seen) / 2
