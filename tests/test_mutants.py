"""The figures of mutants: what counts as killed, and that every survivor was read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.mutant_table import TARGET, mutant_table
from supply.mutants import RESULTS, exit_codes, summary


def test_only_what_a_test_noticed_is_killed(tmp_path: Path) -> None:
    codes: dict[str, int | None] = {"a": 1, "b": 0, "c": 33, "d": -24}
    kept = {"exit_code_by_key": {**codes, "e": None}}
    (tmp_path / "one.py.meta").write_text(json.dumps(kept), encoding="utf-8")
    assert exit_codes(tmp_path) == {**codes, "e": None}
    found = summary(codes, {"b": "equivalent"})
    assert found["outcomes"] == {"killed": 1, "no tests": 1, "survived": 1, "timeout": 1}
    assert found["killed_share"] == pytest.approx(0.5)
    assert found["survivors"] == {"b": "equivalent", "c": ""}
    table = mutant_table({**found, "mutants": 9, "seed": 0, "commit": "x"})
    assert "50.0%" in table
    assert "**no**" in table
    assert "| `c` | not read |" in table


def test_every_survivor_of_the_kept_run_was_read() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert found["killed_share"] >= TARGET
    assert all(found["survivors"].values())
