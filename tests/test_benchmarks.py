"""The committed tables are what the committed results give; the measures themselves run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import concurrency, tables
from benchmarks.load.memory import measure_soak


def test_the_page_shows_the_committed_results() -> None:
    results = json.loads(tables.RESULTS.read_text(encoding="utf-8"))
    page = tables.PAGE.read_text(encoding="utf-8")
    assert results.keys() == concurrency.MEASURES.keys()
    table = tables.concurrency_table(results)
    assert table in page
    assert tables.filled(page, table) == page


def test_a_measure_keeps_the_results_of_the_others(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    concurrency.store(file, "soak", {"seconds": 1})
    concurrency.store(file, "latency", {"ratio": 2})
    results = json.loads(file.read_text(encoding="utf-8"))
    assert list(results) == ["latency", "soak"]
    assert results["soak"]["seconds"] == 1
    assert results["latency"]["environment"]["packages"]["torch"]


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        concurrency.main(["speed"])
    assert "there are adapters" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mixed_load_leaves_nothing_behind() -> None:
    """A short soak: requests are served and cancelled, and no thread stays."""
    found = measure_soak(seconds=20.0)
    assert found["requests"] > 50
    assert found["cancelled"] > 0
    assert found["threads"]["end"] <= found["threads"]["after_a_third"]
    assert found["resident_mib"]["largest"] < 2_000
