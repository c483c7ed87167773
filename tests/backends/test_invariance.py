"""Invariance: a pair's score does not depend on the order, the batch or the other pairs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest

from rerank_plugins import FlagSpec, RemoteSpec, Reranker
from rerank_plugins.config import Dtype
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import FloatArray, TextPair
from tests.helpers.fake_server import TOKEN, FakeServer
from tests.helpers.tiny_decoders import save_logit_score
from tests.helpers.tiny_flag import save_layerwise
from tests.helpers.tiny_models import TEXTS, save_reranker
from tests.helpers.tiny_modular import save_modular

pytestmark = pytest.mark.slow

PAIRS: Final = [
    TextPair(query, (document + " ") * times)
    for times in (1, 2, 9)
    for query in (TEXTS[0], "rain", " ".join(TEXTS))
    for document in (TEXTS[1], TEXTS[2], "", "a", "雨 \u202e\x00 🌧")
]
"""45 pairs of 3 to some 500 tokens."""

ROUNDS: Final = 4


class Case(NamedTuple):
    """One backend.

    Attributes:
        save: Saves a tiny model.
        backend: Name of the backend.
        exact: Tolerance in float32, relative to the largest score plus 1.
        half: Tolerance of bfloat16 and float16 from float32, likewise; None if the backend does not
            compute in them.
        model: Returns the ``model`` argument for the folder.
    """

    save: Callable[[Path], Path]
    backend: str
    exact: float = 1e-5
    half: float | None = 0.05
    model: Callable[[Path], Any] = Path


CASES: Final = {
    "torch": Case(lambda folder: save_reranker("bert", folder), "torch"),
    "torch, padded": Case(lambda folder: save_reranker("deberta", folder), "torch"),
    "torch, modular": Case(lambda folder: save_modular("modernbert", folder), "torch"),
    "sbert": Case(lambda folder: save_modular("bert", folder, pooling="mean"), "sbert"),
    "decoder": Case(lambda folder: save_logit_score("qwen3", folder), "decoder"),
    "flag": Case(
        save_layerwise, "flag", model=lambda folder: FlagSpec(str(folder), cutoff_layers=3)
    ),
    "openvino": Case(lambda folder: save_reranker("bert", folder), "openvino", half=None),
}


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    selected = CASES[request.param]
    package = {"flag": "FlagEmbedding", "openvino": "openvino"}.get(selected.backend)
    if package and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return selected


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.save(tmp_path_factory.mktemp("invariance"))


def reranker_of(case: Case, folder: Path, dtype: Dtype) -> Reranker:
    return Reranker(
        case.model(folder), backend=case.backend, dtype=dtype, device="cpu", activation="none"
    )


def single_scores(reranker: Reranker) -> FloatArray:
    backend: Any = reranker.engine.backend
    return np.concatenate([backend.run(backend.prepare([pair])) for pair in PAIRS])


def score_scale(scores: FloatArray) -> float:
    return 1 + float(np.abs(scores).max())


def check_invariance(reranker: Reranker, expected: FloatArray, tolerance: float) -> None:
    """Score pairs in random orders and batches, some twice, and through the engine."""
    assert np.ptp(expected) > 5 * tolerance, "the test needs scores that differ"
    backend: Any = reranker.engine.backend
    for seed in range(ROUNDS):
        rng = random.Random(seed)  # noqa: S311
        order = rng.sample(range(len(PAIRS)), len(PAIRS))
        order += rng.sample(order, 5)
        prepared = backend.prepare([PAIRS[index] for index in order])
        bounds = sorted(rng.sample(range(1, len(order)), rng.randint(1, 9)))
        batches = zip([0, *bounds], [*bounds, len(order)], strict=True)
        scores = np.concatenate([backend.run(prepared[start:stop]) for start, stop in batches])
        np.testing.assert_allclose(scores, expected[order], rtol=0, atol=tolerance)
        engine_scores = reranker.score([PAIRS[index] for index in order])
        np.testing.assert_allclose(engine_scores, expected[order], rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore")  # warnings of the imports of FlagEmbedding
def test_order_and_batch_do_not_change_scores(case: Case, folder: Path) -> None:
    with reranker_of(case, folder, "float32") as reranker:
        expected = single_scores(reranker)
        check_invariance(reranker, expected, case.exact * score_scale(expected))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_within_its_tolerance_in_any_batch(
    case: Case, folder: Path, dtype: Dtype
) -> None:
    if case.half is None:
        pytest.skip("the backend computes in float32 or int8 only")
    with reranker_of(case, folder, "float32") as reranker:
        expected = single_scores(reranker)
    with reranker_of(case, folder, dtype) as reranker:
        bound = case.half * score_scale(expected)
        half = single_scores(reranker)
        assert 0 < np.abs(half - expected).max() < bound
        check_invariance(reranker, half, bound)


def test_int8_scores_do_not_depend_on_their_batch(tmp_path: Path) -> None:
    # find_spec does not import the packages: their telemetry would start.
    if find_spec("openvino") is None or find_spec("nncf") is None:
        pytest.skip("the extra openvino is not installed")
    case = CASES["openvino"]
    try:
        reranker = reranker_of(case, case.save(tmp_path), "int8").warm_up()
    except ConfigurationError as error:
        pytest.skip(str(error))
    with reranker:
        expected = single_scores(reranker)
        check_invariance(reranker, expected, 1e-4 * score_scale(expected))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake_server = FakeServer("tei")
    yield fake_server
    fake_server.stop()


def test_a_remote_model_maps_every_score_to_its_pair(server: FakeServer) -> None:
    with Reranker(RemoteSpec(server.url, api="tei", token=TOKEN), activation="none") as reranker:
        expected = single_scores(reranker)
        check_invariance(reranker, expected, 1e-6)
