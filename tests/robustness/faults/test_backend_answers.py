"""Backends with invalid results: an error for the affected request, scores for all others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import InferenceError, InvalidScoresError
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import TextPair
from tests.helpers.engines import (
    FaultyCrossEncoder,
    check_only_bad_fails,
    check_only_bad_fails_in,
    engine_of,
    expected,
    pairs,
)


class WrongResult(FakeCrossEncoder):
    """Fake that returns a fixed object for batches with the query ``bad``."""

    def __init__(self, result: Any) -> None:
        super().__init__(batch_tokens=4_000)
        self.result = result

    def run(self, batch: Sequence[TokenizedItem]) -> Any:
        bad = any(item.payload.query == "bad" for item in batch)
        return self.result if bad else super().run(batch)


@pytest.mark.parametrize(
    "result", [None, "scores", {"a": 1}, [object()], [[1.0], [1.0, 2.0]], 3.0, [10**400] * 3]
)
def test_results_that_are_no_array_fail_only_their_request(result: Any) -> None:
    check_only_bad_fails(WrongResult(result), InvalidScoresError, "'fake'")


def test_a_list_of_numbers_is_a_valid_result() -> None:
    backend = WrongResult([2, 2, 2])
    with engine_of(backend) as engine:
        assert engine.compute(pairs("bad", 3)).values.tolist() == [2.0, 2.0, 2.0]


class TwoColumns(FakeCrossEncoder):
    """Fake that returns two columns for the last batch of the query ``bad``."""

    def run(self, batch: Sequence[TokenizedItem]) -> Any:
        scores = super().run(batch)
        last = any(item.payload.document.startswith("bad 2") for item in batch)
        return np.stack([scores, scores], axis=1) if last else scores


def test_two_columns_in_one_of_many_batches_fail_only_their_request() -> None:
    backend = TwoColumns(batch_tokens=20)
    with engine_of(backend) as engine:
        engine.cache.memory.grow(2**20)
        check_only_bad_fails_in(engine, InvalidScoresError, r"shape \(1, 2\) .* must be \(1,\)")
        cached = pairs("bad", 2)  # the scores of the valid batches are cached
        np.testing.assert_allclose(engine.compute(cached).values, expected(cached))
        with pytest.raises(InvalidScoresError):
            engine.compute(pairs("bad", 3))


class WrongItems(FakeCrossEncoder):
    """Fake that changes the prepared items of the query ``bad``."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        prepared = super().prepare(items, max_length)
        if items[0].query == "bad":
            prepared = self.change(prepared)
        return prepared


@pytest.mark.parametrize(
    "change",
    [
        lambda prepared: prepared[:-1],
        lambda prepared: [*prepared, prepared[0]],
        lambda _: [],
        lambda prepared: [TokenizedItem(0, False, item.payload) for item in prepared],
    ],
    ids=["one missing", "one extra", "none", "empty"],
)
def test_invalid_prepared_items_fail_only_their_request(change: Any) -> None:
    check_only_bad_fails(
        WrongItems(change), InferenceError, "must return one item of at least 1 token"
    )


@pytest.mark.parametrize("seed", range(5))
def test_random_faults_lose_no_request_and_change_no_score(seed: int) -> None:
    """Each batch fails with a probability of 0.4: a request gets an error or correct scores."""
    chance = random.Random(seed)  # noqa: S311

    def fault(_: list[TextPair]) -> None:
        if chance.random() < 0.4:
            message = "by chance"
            raise OSError(message)

    backend = FaultyCrossEncoder(fault, batch_tokens=200, seed=seed)
    with engine_of(backend) as engine:
        requests = [pairs(f"query {number}", 1 + number % 9) for number in range(100)]
        futures = [engine.submit(request) for request in requests]
        failed = 0
        for request, future in zip(requests, futures, strict=True):
            error = future.exception(30)
            if error is None:
                np.testing.assert_allclose(future.result().values, expected(request))
            else:
                assert isinstance(error, InferenceError)
                assert isinstance(error.__cause__, OSError)
                failed += 1
        assert 0 < failed < len(requests)
        assert engine.stats().queued_tokens == 0
