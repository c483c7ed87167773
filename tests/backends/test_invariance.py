"""A score is that of its pair alone: in any order, in any batch, beside any other pair."""

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
        backend: What computes it.
        exact: How far a score may move in float32, in units of the largest plus 1.
        half: How far bfloat16 and float16 may be from float32, in the same units; None where
            the backend does not compute in them.
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
    found = CASES[request.param]
    needed = {"flag": "FlagEmbedding", "openvino": "openvino"}.get(found.backend)
    if needed and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    return found


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.save(tmp_path_factory.mktemp("invariance"))


def reranker_of(case: Case, folder: Path, dtype: Dtype) -> Reranker:
    return Reranker(case.model(folder), backend=case.backend, dtype=dtype, device="cpu")


def alone(reranker: Reranker) -> FloatArray:
    backend: Any = reranker.engine.backend
    return np.concatenate([backend.run(backend.prepare([pair])) for pair in PAIRS])


def unit(scores: FloatArray) -> float:
    return 1 + float(np.abs(scores).max())


def check_invariance(reranker: Reranker, wanted: FloatArray, tolerance: float) -> None:
    """Score the pairs in random orders, cut into random batches, twice in one, and ranked."""
    assert np.ptp(wanted) > 5 * tolerance, "scores that hardly differ would prove nothing"
    backend: Any = reranker.engine.backend
    for seed in range(ROUNDS):
        chance = random.Random(seed)  # noqa: S311
        order = chance.sample(range(len(PAIRS)), len(PAIRS))
        order += chance.sample(order, 5)
        prepared = backend.prepare([PAIRS[index] for index in order])
        cuts = sorted(chance.sample(range(1, len(order)), chance.randint(1, 9)))
        batches = zip([0, *cuts], [*cuts, len(order)], strict=True)
        scores = np.concatenate([backend.run(prepared[start:stop]) for start, stop in batches])
        np.testing.assert_allclose(scores, wanted[order], rtol=0, atol=tolerance)
        through = reranker.score([PAIRS[index] for index in order])
        np.testing.assert_allclose(through, wanted[order], rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore")  # of FlagEmbedding's imports
def test_order_and_batch_change_no_score(case: Case, folder: Path) -> None:
    with reranker_of(case, folder, "float32") as reranker:
        wanted = alone(reranker)
        check_invariance(reranker, wanted, case.exact * unit(wanted))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_drifts_within_its_bound_in_any_batch(
    case: Case, folder: Path, dtype: Dtype
) -> None:
    if case.half is None:
        pytest.skip("the backend computes in float32 or int8")
    with reranker_of(case, folder, "float32") as reranker:
        wanted = alone(reranker)
    with reranker_of(case, folder, dtype) as reranker:
        bound = case.half * unit(wanted)
        found = alone(reranker)
        assert 0 < np.abs(found - wanted).max() < bound
        check_invariance(reranker, found, bound)


def test_int8_depends_on_nothing_else_either(tmp_path: Path) -> None:
    # Not by importing them: their telemetry starts where nobody turns it off before.
    if find_spec("openvino") is None or find_spec("nncf") is None:
        pytest.skip("the extra openvino is not installed")
    case = CASES["openvino"]
    try:
        reranker = reranker_of(case, case.save(tmp_path), "int8").warm_up()
    except ConfigurationError as error:
        pytest.skip(str(error))
    with reranker:
        wanted = alone(reranker)
        check_invariance(reranker, wanted, 1e-4 * unit(wanted))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake_server = FakeServer("tei")
    yield fake_server
    fake_server.stop()


def test_a_remote_model_maps_every_score_to_its_pair(server: FakeServer) -> None:
    with Reranker(RemoteSpec(server.url, api="tei", token=TOKEN)) as reranker:
        wanted = alone(reranker)
        check_invariance(reranker, wanted, 1e-6)
