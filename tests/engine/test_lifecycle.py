"""Idle unload, interpreter exit and fork."""

from __future__ import annotations

import os
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rerank_plugins import Cache, Reranker
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.loading import LazyModel, get_loader, register_loader
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import TextPair
from tests.helpers.engines import pairs
from tests.robustness.faults.scripts import run_script


class ReloadingLoader:
    """Keeps a list of the backends it loaded."""

    def __init__(self) -> None:
        self.loaded: list[FakeCrossEncoder] = []
        self.broken = False

    def resolve(self, config: ModelConfig) -> ModelConfig:
        return config

    def load(self, config: ModelConfig) -> FakeCrossEncoder:
        if self.broken:
            message = f"{config.model} is gone"
            raise ModelLoadError(message)
        self.loaded.append(FakeCrossEncoder())
        return self.loaded[-1]


def wait_until_unloaded(engine: Engine[TextPair]) -> None:
    deadline = time.monotonic() + 10
    while engine.loaded:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_idle_model_is_unloaded_and_loaded_again() -> None:
    loader = ReloadingLoader()
    engine: Engine[TextPair] = Engine(LazyModel(loader, ModelConfig()))
    engine.idle_unload_s = 0.05
    first = engine.compute(pairs("query", 3)).values
    wait_until_unloaded(engine)
    assert loader.loaded[0].closed
    again = engine.compute(pairs("query", 3)).values
    assert again.tolist() == first.tolist()
    assert len(loader.loaded) == 2
    wait_until_unloaded(engine)
    engine.close()


async def test_cached_results_do_not_load_an_unloaded_model() -> None:
    """Properties of the model, and scores that are all cached, need no model in memory."""
    loader = ReloadingLoader()
    original = get_loader("cross-encoder")
    register_loader("cross-encoder", loader)
    try:
        reranker = Reranker("unloaded", idle_unload_s=0.05, cache=Cache(memory_mb=1))
        first = reranker.rank("rain", ["rain", "snow"])
        wait_until_unloaded(reranker.engine)
        for again in (
            reranker.rank("rain", ["rain", "snow"]),
            await reranker.arank("rain", ["rain", "snow"]),
            *reranker.rank_many([("rain", ["rain", "snow"])]),
        ):
            assert again == first
        assert len(loader.loaded) == 1
        reranker.close()
    finally:
        register_loader("cross-encoder", original)


def test_a_model_that_cannot_be_reloaded_is_an_error() -> None:
    loader = ReloadingLoader()
    engine: Engine[TextPair] = Engine(LazyModel(loader, ModelConfig()))
    engine.idle_unload_s = 0.05
    engine.compute(pairs("query", 1))
    wait_until_unloaded(engine)
    loader.broken = True
    with pytest.raises(ModelLoadError, match="gone"):
        engine.compute(pairs("query", 1))
    loader.broken = False
    assert len(engine.compute(pairs("query", 2)).values) == 2
    engine.close()


def test_the_setting_reaches_the_shared_engine() -> None:
    reranker = Reranker("mini", dtype="float32", idle_unload_s=3600)
    engine = reranker.engine
    assert engine.idle_unload_s == 3600
    assert Reranker("mini", dtype="float32").engine is engine
    assert engine.idle_unload_s == 3600
    engine.idle_unload_s = None


def test_idle_engines_do_not_poll() -> None:
    """Without requests, the threads of an engine use no processor time."""
    loader = ReloadingLoader()
    engine: Engine[TextPair] = Engine(LazyModel(loader, ModelConfig()))
    with engine:
        engine.compute(pairs("query", 3))
        before = time.process_time()
        threading.Event().wait(0.5)
        assert time.process_time() - before < 0.1


def test_the_interpreter_exits_while_requests_wait() -> None:
    """There is no hang and no traceback."""
    result = run_script(
        """
        import threading, time
        from rerank_plugins import Reranker
        from rerank_plugins.types import TextPair
        from rerank_plugins.testing import FakeCrossEncoder

        class Slow(FakeCrossEncoder):
            def run(self, batch):
                time.sleep(0.05)
                return super().run(batch)

        backend = Slow(batch_tokens=50)
        engine = Reranker(backend).engine
        futures = [engine.submit([TextPair("q", f"d {n}") for n in range(200)]) for _ in range(9)]
        threading.Thread(target=futures[0].exception, daemon=True).start()
        print("leaving")
        """
    )
    assert result.returncode == 0
    assert result.stdout == "leaving\n"
    assert result.stderr == ""


def test_a_backend_that_outlives_the_engines_ends_without_an_error(tmp_path: Path) -> None:
    """A backend in a module is collected when the interpreter is half torn down."""
    (tmp_path / "holder.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            from rerank_plugins import Reranker
            from rerank_plugins.engine.backend import TokenizedItem
            from rerank_plugins.types import ModelIdentity, ScoreScale

            class UserModel:
                identity = ModelIdentity("user", None, "user", "float32", 512)
                scale, batch_tokens, is_padded = ScoreScale.LOGIT, 100, False

                def prepare(self, items, max_length=None):
                    return [TokenizedItem(3, False, len(item.document)) for item in items]

                def run(self, batch):
                    return np.array([item.payload for item in batch], dtype=np.float32)

                def close(self):
                    pass

            backend = UserModel()
            print(Reranker(backend).rank("rain", ["a", "bb"])[0].index)
            """
        ),
        encoding="utf-8",
    )
    result = run_script(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import holder")
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_its_own_engine() -> None:
    """Fork while the parent scores: both processes keep working."""
    result = run_script(
        """
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
        from rerank_plugins import Reranker
        from rerank_plugins.errors import EngineClosedError

        documents = ["Goethe wrote Faust.", "Rain falls."] * 20
        reranker = Reranker("mini", dtype="float32")
        expected = [doc.raw_score for doc in reranker.rank("who wrote Faust", documents)]
        engine = reranker.engine
        busy = threading.Thread(
            target=lambda: [reranker.rank("who", [f"{n} {d}" for d in documents]) for n in range(9)]
        )
        busy.start()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                try:
                    engine.compute([("who", "he")])
                except EngineClosedError:
                    scores = [doc.raw_score for doc in reranker.rank("who wrote Faust", documents)]
                    same = all(abs(a - b) < 1e-5 for a, b in zip(scores, expected))
                    code = 0 if same and reranker.engine is not engine else 2
            finally:
                os._exit(code)
        busy.join()
        _, status = os.waitpid(child, 0)
        print("child", os.waitstatus_to_exitcode(status))
        again = [doc.raw_score for doc in reranker.rank("who wrote Faust", documents)]
        print("parent", all(abs(a - b) < 1e-5 for a, b in zip(again, expected)))
        """
    )
    assert result.stdout == "child 0\nparent True\n", result.stderr
    assert result.returncode == 0
