"""Cost is linear in tokens, and memory does not grow with the number of pairs."""

from __future__ import annotations

import pytest

from benchmarks.scaling import measure
from rerank_plugins import Reranker
from tests.helpers.tiny_models import TEXTS

PASSAGE = " ".join(TEXTS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_pairs_cost_what_their_tokens_cost() -> None:
    """Processor time, which other programs on the machine hardly change."""
    reranker = Reranker(backend="torch", device="cpu", dtype="float32")
    texts = [f"{number} {PASSAGE[:30]}" for number in range(10_000)]
    texts[:1000] = [f"{number} {PASSAGE}" for number in range(1_000)]
    found = measure(texts, TEXTS[0], reranker, sizes=(10, 100, 1_000, 10_000), turns=3)
    assert found["processor_slope"] == pytest.approx(1, abs=0.1)
    few, many = found["sizes"][-2:]
    assert many["peak_mib"] - few["peak_mib"] < 64 + 4 * many["text_mib"]
