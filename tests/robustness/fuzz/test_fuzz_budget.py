"""Tests of the fuzz budget and of the mutations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from benchmarks.robustness import fuzz
from tests.robustness.fuzz import fuzz_budget
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


def test_a_failing_target_is_reported_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_budget, "SECONDS", 5.0)
    monkeypatch.setattr(fuzz_budget, "COUNTS", str(tmp_path / "counts"))

    def fail_for_large_numbers(number: int) -> None:
        assert number < 1_000

    target = fuzz_budget.fuzz(few=1, many=1, number=st.integers())(fail_for_large_numbers)
    with pytest.raises(AssertionError):
        target("long")
    row = json.loads((tmp_path / "counts").read_text("utf-8"))
    assert row["examples"] > 1
    assert not row["sound"]


def test_mutations_change_values_and_copy_the_original() -> None:
    valid = {"a": [1, {"b": None}], "c": "d"}
    seen: list[object] = []

    def record(value: object, data: bytes) -> None:
        seen.append(value)
        assert isinstance(data, bytes)

    fuzz_budget.fuzz(few=50, many=50, value=changed(valid), data=damaged(b"sound"))(record)("few")
    assert valid == {"a": [1, {"b": None}], "c": "d"}
    assert sum(value != valid for value in seen) > len(seen) / 2
