"""Cost is linear in tokens; memory does not grow with the number of pairs."""

from __future__ import annotations

import pytest

from benchmarks.scaling import measure
from rerank_plugins import Reranker
from tests.helpers.tiny_models import TEXTS

PASSAGE = " ".join(TEXTS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cost_of_ten_thousand_pairs_is_linear_in_tokens() -> None:
    """The cost is processor time, which depends little on other programs."""
    reranker = Reranker(backend="torch", device="cpu", dtype="float32")
    texts = [f"{number} {PASSAGE[:30]}" for number in range(10_000)]
    texts[:1000] = [f"{number} {PASSAGE}" for number in range(1_000)]
    results = measure(texts, TEXTS[0], reranker, sizes=(10, 100, 1_000, 10_000), turns=3)
    assert results["processor_slope"] == pytest.approx(1, abs=0.1)
    small, large = results["sizes"][-2:]
    assert large["peak_mib"] - small["peak_mib"] < 64 + 4 * large["text_mib"]
