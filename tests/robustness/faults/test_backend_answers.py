"""Backends that answer with what is no answer: an error for who asked, and nobody else waits."""

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


class Answers(FakeCrossEncoder):
    """Gives something else than scores for the query ``bad``."""

    def __init__(self, answer: Any) -> None:
        super().__init__(batch_tokens=4_000)
        self.answer = answer

    def run(self, batch: Sequence[TokenizedItem]) -> Any:
        bad = any(one.payload.query == "bad" for one in batch)
        return self.answer if bad else super().run(batch)


@pytest.mark.parametrize(
    "answer", [None, "scores", {"a": 1}, [object()], [[1.0], [1.0, 2.0]], 3.0, [10**400] * 3]
)
def test_what_is_no_array_reaches_only_its_request(answer: Any) -> None:
    check_only_bad_fails(Answers(answer), InvalidScoresError, "'fake'")


def test_a_list_of_numbers_is_an_answer() -> None:
    backend = Answers([2, 2, 2])
    with engine_of(backend) as engine:
        assert engine.compute(pairs("bad", 3)).values.tolist() == [2.0, 2.0, 2.0]


class TwoColumns(FakeCrossEncoder):
    """Gives two columns for the last of a query's batches."""

    def run(self, batch: Sequence[TokenizedItem]) -> Any:
        scores = super().run(batch)
        last = any(one.payload.document.startswith("bad 2") for one in batch)
        return np.stack([scores, scores], axis=1) if last else scores


def test_columns_in_one_batch_of_many_reach_only_their_request() -> None:
    backend = TwoColumns(batch_tokens=20)
    with engine_of(backend) as engine:
        engine.cache.memory.grow(2**20)
        check_only_bad_fails_in(engine, InvalidScoresError, r"shape \(1, 2\) .* must be \(1,\)")
        known = pairs("bad", 2)  # of its other batches, what was right is kept
        np.testing.assert_allclose(engine.compute(known).values, expected(known))
        with pytest.raises(InvalidScoresError):
            engine.compute(pairs("bad", 3))


class Prepares(FakeCrossEncoder):
    """Prepares the wrong number of items, or empty ones, for the query ``bad``."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        prepared = super().prepare(items, max_length)
        spoilt: list[TokenizedItem] = self.spoil(prepared) if items[0].query == "bad" else prepared
        return spoilt


@pytest.mark.parametrize(
    "spoil",
    [
        lambda prepared: prepared[:-1],
        lambda prepared: [*prepared, prepared[0]],
        lambda _: [],
        lambda prepared: [TokenizedItem(0, False, one.payload) for one in prepared],
    ],
    ids=["one few", "one many", "none", "empty"],
)
def test_wrongly_prepared_items_reach_only_their_request(spoil: Any) -> None:
    check_only_bad_fails(
        Prepares(spoil), InferenceError, "each must become one of at least 1 token"
    )


@pytest.mark.parametrize("seed", range(5))
def test_random_faults_lose_nothing_and_make_nothing_wrong(seed: int) -> None:
    """Four of ten batches raise, whoever is in them: an error, or the right scores."""
    chance = random.Random(seed)  # noqa: S311

    def fault(_: list[TextPair]) -> None:
        if chance.random() < 0.4:
            message = "by chance"
            raise OSError(message)

    backend = FaultyCrossEncoder(fault, batch_tokens=200, seed=seed)
    with engine_of(backend) as engine:
        requests = [pairs(f"query {number}", 1 + number % 9) for number in range(100)]
        futures = [engine.submit(one) for one in requests]
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
