"""One engine per model and process, loaded once for any number of callers."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.loading import get_loader, register_loader
from rerank_plugins.engine.registry import get_engine
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder

THREADS = 32


class CountingLoader:
    """Loads fakes slowly, counts the loads, and fails a number of times."""

    def __init__(self) -> None:
        self.loaded: list[ModelConfig] = []
        self.failures = 0
        self.delay = 0.0
        self.held: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def resolve(self, config: ModelConfig) -> ModelConfig:
        return config.replace(device=config.device or "cpu")

    def load(self, config: ModelConfig) -> FakeCrossEncoder:
        with self._lock:
            self.loaded.append(config)
            fails = self.failures > 0
            self.failures -= fails
        threading.Event().wait(self.delay)
        if config.model in self.held:
            assert self.held[config.model].wait(10)
        if fails:
            message = "not today"
            raise ModelLoadError(message)
        return FakeCrossEncoder()


@pytest.fixture
def loader() -> Iterator[CountingLoader]:
    original = get_loader("cross-encoder")
    counting = CountingLoader()
    register_loader("cross-encoder", counting)
    yield counting
    register_loader("cross-encoder", original)


@pytest.fixture
def config(request: pytest.FixtureRequest) -> ModelConfig:
    """Return a configuration that no other test uses, because engines outlive tests."""
    return ModelConfig(model=request.node.nodeid)


def test_many_threads_load_once(loader: CountingLoader, config: ModelConfig) -> None:
    loader.delay = 0.05
    start = threading.Barrier(THREADS)

    def ask(_: int) -> int:
        start.wait(10)
        return id(get_engine("cross-encoder", config))

    with ThreadPoolExecutor(THREADS) as pool:
        engines = set(pool.map(ask, range(THREADS)))
    assert len(engines) == 1
    assert len(loader.loaded) == 1


def test_a_failed_load_is_tried_again(loader: CountingLoader, config: ModelConfig) -> None:
    loader.failures = 2
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="not today"):
            get_engine("cross-encoder", config)
    assert get_engine("cross-encoder", config) is get_engine("cross-encoder", config)
    assert len(loader.loaded) == 3


def test_a_failed_load_with_many_callers(loader: CountingLoader, config: ModelConfig) -> None:
    """At least one caller gets the error; all others share one model."""
    loader.failures = 1
    loader.delay = 0.05
    start = threading.Barrier(8)

    def ask(_: int) -> object:
        start.wait(10)
        try:
            return get_engine("cross-encoder", config)
        except ModelLoadError:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(8)))
    assert None in results
    engine = get_engine("cross-encoder", config)
    assert all(result in (None, engine) for result in results)
    assert len(loader.loaded) == 2


def test_a_slow_load_does_not_delay_other_models(
    loader: CountingLoader, config: ModelConfig
) -> None:
    release = loader.held[config.model] = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(get_engine, "cross-encoder", config)
        while not loader.loaded:
            threading.Event().wait(0.001)
        get_engine("cross-encoder", config.replace(model=config.model + " other"))
        assert not waiting.done()
        release.set()
        assert waiting.result(10) is get_engine("cross-encoder", config)


def test_equal_configurations_share(loader: CountingLoader, config: ModelConfig) -> None:
    engine = Reranker(config.model, top_n=3).engine
    assert Reranker(config.model, score_threshold=0.5).engine is engine
    assert Reranker(config.model, device="cpu").engine is engine, "None resolves to cpu here"
    assert Reranker(config.model, max_length=64).engine is engine, "a setting of each request"
    assert len(loader.loaded) == 1


@pytest.mark.parametrize(
    "difference",
    [
        {"dtype": "float16"},
        {"device": "cuda:1"},
        {"revision": "v2"},
        {"backend": "other"},
        {"trust_remote_code": True},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_other_configurations_do_not_share(
    loader: CountingLoader, config: ModelConfig, difference: dict[str, object]
) -> None:
    other = config.replace(**difference)
    assert get_engine("cross-encoder", config) is not get_engine("cross-encoder", other)
    assert len(loader.loaded) == 2


async def test_settings_reach_an_engine_that_an_async_call_loads(
    loader: CountingLoader, config: ModelConfig
) -> None:
    reranker = Reranker(config.model, idle_unload_s=99)
    await reranker.arank("rain", ["snow"])
    engine = reranker.engine
    assert engine.idle_unload_s == 99
    assert len(loader.loaded) == 1
    engine.close()


def test_settings_are_applied_once_per_engine(loader: CountingLoader, config: ModelConfig) -> None:
    reranker = Reranker(config.model, idle_unload_s=99)
    engine = reranker.engine
    engine.idle_unload_s = None
    reranker.rank("rain", ["snow"])
    assert reranker.engine is engine
    assert engine.idle_unload_s is None
    engine.close()
    assert reranker.engine.idle_unload_s == 99


def test_a_reranker_can_be_pickled_after_its_use(
    loader: CountingLoader, config: ModelConfig
) -> None:
    reranker = Reranker(config.model)
    reranker.rank("rain", ["snow"])
    copy = pickle.loads(pickle.dumps(reranker))  # noqa: S301  (our own bytes)
    assert copy.engine is reranker.engine


def test_a_closed_engine_is_replaced(loader: CountingLoader, config: ModelConfig) -> None:
    reranker = Reranker(config.model)
    first = reranker.engine
    first.close()
    assert reranker.engine is not first
    assert len(reranker.rank("rain", ["snow"])) == 1
    assert len(loader.loaded) == 2


def test_nothing_is_loaded_before_it_is_needed(loader: CountingLoader, config: ModelConfig) -> None:
    reranker = Reranker(config.model)
    assert loader.loaded == []
    assert reranker.warm_up() is reranker
    assert len(loader.loaded) == 1


def test_closing_loads_nothing(loader: CountingLoader, config: ModelConfig) -> None:
    Reranker(config.model).close()
    assert loader.loaded == []
    engine = Reranker(config.model).engine
    Reranker(
        config.model, device="cpu", max_length=64
    ).close()  # another configuration of the same model
    assert engine.closed
    Reranker(config.model).close()
    assert len(loader.loaded) == 1


def test_rerankers_around_one_backend_share_its_engine() -> None:
    backend = FakeCrossEncoder()
    assert Reranker(backend, top_n=1).engine is Reranker(backend).engine
    assert Reranker(backend).engine.backend is backend
    assert Reranker(FakeCrossEncoder()).engine is not Reranker(backend).engine


def test_bi_encoders_around_one_backend_share_its_engine() -> None:
    backend = FakeBiEncoder()
    assert BiEncoder(backend).engine is BiEncoder(backend, prompts={"query": "q: "}).engine


def test_kinds_do_not_share(loader: CountingLoader, config: ModelConfig) -> None:
    original = get_loader("bi-encoder")
    register_loader("bi-encoder", loader)
    try:
        bi_encoder = get_engine("bi-encoder", config)
    finally:
        register_loader("bi-encoder", original)
    assert bi_encoder is not get_engine("cross-encoder", config)
