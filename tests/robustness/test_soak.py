"""Short soak test, and its check of responses."""

from __future__ import annotations

import pytest

from benchmarks.soak import Response, find_problem, run_soak

EXPECTED = [0.2, 0.9, 0.5]


@pytest.mark.parametrize(
    ("response", "whole", "problem"),
    [
        ([(1, 0.9), (2, 0.5), (0, 0.2)], True, None),
        ([(1, 0.9), (0, None), (2, None)], False, None),
        ([(1, 0.9), (2, 0.5)], True, "documents [1, 2] of 3"),
        ([(1, 0.9), (1, 0.9), (2, 0.5)], True, "documents [1, 1, 2] of 3"),
        ([(1, 0.9), (0, None), (2, None)], True, "1 of 3 are scored"),
        ([(0, None), (1, 0.9), (2, 0.5)], False, "unscored documents before"),
        ([(1, 0.9), (2, None), (0, None)], False, "lost their order"),
        ([(2, 0.5), (1, 0.9), (0, 0.2)], True, "not the best first"),
        ([(1, 0.9), (2, 0.5001), (0, 0.2)], True, "scores {2: 0.5001}"),
        ([(1, float("nan")), (2, 0.5), (0, 0.2)], True, "scores {1: nan}"),
    ],
)
def test_wrong_responses_are_found(response: Response, whole: bool, problem: str | None) -> None:
    seen = find_problem(response, EXPECTED, whole=whole)
    assert (seen is None) == (problem is None)
    assert (problem or "") in (seen or "")


@pytest.mark.slow
def test_a_short_soak_loses_nothing_and_returns_nothing_wrong() -> None:
    soak, backend = run_soak(1 / 3, cores=2, rate=0.1, requests=30)
    assert soak.problems == []
    assert soak.outcomes["lost"] == soak.outcomes["wrong"] == 0
    assert len(soak.clients) == 8
    for outcome in ("right", "cancelled", "timed out", "partial", "failed", "refused"):
        assert soak.outcomes[outcome] > 0, outcome
    assert sum(backend.counts.values()) > 5
