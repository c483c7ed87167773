"""The measurements of docs/models.md run, and their tables can be made."""

from __future__ import annotations

import pytest

from benchmarks import backends, decoder
from benchmarks.backend_tables import backends_table, decoder_table


@pytest.mark.slow
def test_the_kept_prefix_can_be_measured() -> None:
    found = decoder.measure(width=64, layers=1, queries=2, documents=3, rounds=1, size="sentence")
    assert found["largest_difference"] < 1e-4 * (1 + found["spread_of_scores"])
    assert 0 < found["shared_tokens"] < found["tokens"]
    assert "| sentence-transformers |" in decoder_table(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_backends_can_be_measured() -> None:
    found = backends.measure(documents=2, repeats=1, rounds=1, width=64, layers=1)
    assert {(row["model"], row["backend"]) for row in found["rows"]} >= {
        ("mini", "torch"),
        ("mini", "sbert"),
        ("random Qwen3", "decoder"),
    }
    assert backends_table(found).count("\n|") == len(found["rows"]) + 1
