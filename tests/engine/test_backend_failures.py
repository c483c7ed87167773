"""Backend failures reach the caller as errors of this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.engine.backend import RoleText, TokenizedItem
from rerank_plugins.errors import EngineClosedError, InferenceError, InvalidScoresError
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.types import FloatArray, TextPair


class Distorted(FakeCrossEncoder):
    """Returns scores that a function has distorted."""

    def __init__(self, distort: Callable[[FloatArray], Any]) -> None:
        super().__init__()
        self._distort = distort

    def run(self, batch: Sequence[TokenizedItem]) -> Any:
        return self._distort(super().run(batch))


class Failing(FakeCrossEncoder):
    """Raises an error in one of its steps."""

    def __init__(self, error: Exception, step: str) -> None:
        super().__init__()
        self._error = error
        self._step = step

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        if self._step == "prepare":
            raise self._error
        return super().prepare(items)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if self._step == "run":
            raise self._error
        return super().run(batch)


def replace_first(value: float) -> Callable[[FloatArray], FloatArray]:
    def distort(scores: FloatArray) -> FloatArray:
        scores[0] = value
        return scores

    return distort


@pytest.mark.parametrize(
    "distort",
    [
        lambda scores: scores[:-1],
        lambda scores: np.append(scores, scores[:1]),
        lambda scores: scores[:0],
        lambda scores: np.stack([scores, scores], axis=1),
        replace_first(math.nan),
        replace_first(math.inf),
        replace_first(-math.inf),
    ],
    ids=["too few", "too many", "none", "two columns", "nan", "inf", "-inf"],
)
async def test_wrong_scores_never_become_a_ranking(distort: Callable[[FloatArray], Any]) -> None:
    documents = ["rain", "snow", "sun"]
    with pytest.raises(InvalidScoresError):
        Reranker(Distorted(distort)).rank("rain", documents)
    with pytest.raises(InvalidScoresError):
        await Reranker(Distorted(distort)).arank("rain", documents)
    with pytest.raises(InvalidScoresError):
        Reranker(Distorted(distort)).score([("rain", text) for text in documents])


@pytest.mark.parametrize("step", ["prepare", "run"])
@pytest.mark.parametrize("error", [RuntimeError("boom"), ValueError("boom"), MemoryError("boom")])
async def test_a_foreign_exception_is_mapped_and_chained(step: str, error: Exception) -> None:
    reranker = Reranker(Failing(error, step))
    with pytest.raises(InferenceError, match=r"'fake'.*boom") as caught:
        reranker.rank("rain", ["snow"])
    assert caught.value.__cause__ is error
    with pytest.raises(InferenceError, match="boom") as caught:
        await reranker.arank("rain", ["snow"])
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("step", ["prepare", "run"])
def test_an_error_of_this_package_is_raised_unchanged(step: str) -> None:
    error = EngineClosedError("gone")
    with pytest.raises(EngineClosedError, match=r"^gone$"):
        Reranker(Failing(error, step)).rank("rain", ["snow"])


def test_a_failure_does_not_affect_later_requests() -> None:
    backend = Failing(RuntimeError("boom"), "run")
    reranker = Reranker(backend)
    with pytest.raises(InferenceError):
        reranker.rank("rain", ["snow"])
    backend._step = "never"
    assert len(reranker.rank("rain", ["snow"])) == 1


class NotFinite(FakeBiEncoder):
    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        vectors = super().run(batch)
        vectors[-1, 0] = math.nan
        return vectors


class Short(FakeBiEncoder):
    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        return super().run(batch)[:-1]


class Broken(FakeBiEncoder):
    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        message = "boom"
        raise RuntimeError(message)


def test_wrong_embeddings_are_refused() -> None:
    with pytest.raises(InvalidScoresError, match=r"'fake' is not finite.*float32"):
        BiEncoder(NotFinite()).encode_query(["rain", "snow"])
    with pytest.raises(InvalidScoresError):
        BiEncoder(Short()).encode_document(["rain", "snow"])
    with pytest.raises(InferenceError, match="boom"):
        BiEncoder(Broken()).encode_document(["rain"])
