"""Cost is linear in tokens; memory does not grow with the number of pairs."""

from __future__ import annotations

import pytest

from benchmarks.speed.costs import growth_of
from tests.helpers.tiny_models import TEXTS

PASSAGE = " ".join(TEXTS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cost_of_ten_thousand_pairs_is_linear_in_tokens() -> None:
    """The cost is processor time, which depends little on other programs."""
    texts = [f"{number} {PASSAGE[:30]}" for number in range(10_000)]
    texts[:1000] = [f"{number} {PASSAGE}" for number in range(1_000)]
    pairs = [(TEXTS[0], text) for text in texts]
    growth = growth_of(pairs, sizes=(10, 100, 1_000, 10_000))
    assert growth["processor_slope"] == pytest.approx(1, abs=0.1)
    assert growth["memory_growth_mib"] < 64 + 4 * growth["text_mib"]
