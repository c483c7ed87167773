"""torch.compile: unchanged scores, and one compilation for all numbers of tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch._aot_autograd.utils import make_boxed_func

from rerank_plugins import Reranker
from rerank_plugins.backends.torch import cross_encoder as torch_model
from rerank_plugins.backends.torch.packing import PackedModel
from rerank_plugins.config import Dtype, Optimize
from rerank_plugins.errors import ConfigurationError
from tests.helpers.tiny_models import TEXTS, save_reranker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in torch's compiler

PAIRS = [(TEXTS[0], " ".join(TEXTS[:n])) for n in range(7)]
COMPILED: list[Optimize] = ["compile", "reduce-overhead"]


@pytest.fixture
def compile_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[str]]:
    """Compile with another backend, and allow CUDA graphs on a CPU, which has none."""
    original = torch.compile

    def with_backend(backend: Any) -> list[str]:
        modes: list[str] = []

        def compile_function(function: Any, mode: str) -> Any:
            modes.append(mode)
            return original(function, backend=backend)

        monkeypatch.setattr(torch, "compile", compile_function)
        monkeypatch.setattr(torch_model, "validate_optimize", lambda *_: None)
        return modes

    return with_backend


@pytest.mark.parametrize("optimize", COMPILED)
@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "electra"])
def test_one_graph_serves_every_layer_and_number_of_tokens(
    architecture: str,
    optimize: Optimize,
    tmp_path: Path,
    compile_with: Callable[[Any], list[str]],
) -> None:
    """The captured graph is run without code generation, which needs a compiler."""
    counter = CompileCounterWithBackend("eager")
    modes = compile_with(counter)
    folder = save_reranker(architecture, tmp_path)
    compiled = Reranker(folder, device="cpu", dtype="float32", optimize=optimize, activation="none")
    plain = Reranker(folder, device="cpu", dtype="float32", activation="none")
    assert compiled.engine is not plain.engine
    for repeats in (1, 2, 5, 9):
        expected = plain.score(PAIRS * repeats)
        np.testing.assert_allclose(compiled.score(PAIRS * repeats), expected, rtol=0, atol=1e-5)
    assert not compiled.engine.backend.is_padded
    assert counter.frame_count == 1
    assert modes == ["default" if optimize == "compile" else optimize]


def test_cuda_graphs_get_few_sizes_in_one_thread_and_copy_no_weights(
    tmp_path: Path, compile_with: Callable[[Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA graph trees record per size and per thread, and copy inputs that are not static."""
    static: list[int] = []

    def compiler(graph: Any, inputs: list[Any]) -> Any:
        context = torch._guards.TracingContext.get()
        static.extend(context.fw_metadata.static_input_indices)  # type: ignore[union-attr]
        return make_boxed_func(graph)

    compile_with(aot_autograd(fw_compiler=compiler, inference_compiler=compiler))
    original, calls = PackedModel.__call__, []

    def recorded(packed: PackedModel, batch: Any) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        calls.append((len(batch.ids), threading.get_ident()))
        return original(packed, batch)

    monkeypatch.setattr(PackedModel, "__call__", recorded)
    folder = save_reranker("bert", tmp_path)
    models = [
        Reranker(
            folder,
            device="cpu",
            dtype="float32",
            optimize="reduce-overhead",
            max_length=size,
            activation="none",
        )
        for size in (64, 100)
    ]
    plain = Reranker(folder, device="cpu", dtype="float32", max_length=64, activation="none")
    expected = plain.score(PAIRS * 9)
    calls.clear()
    with ThreadPoolExecutor(4) as pool:
        for count in (1, 2, 20, 63) * 2:
            list(pool.map(lambda model, size=count: model.score((PAIRS * 9)[:size]), models))
    assert len({thread for _, thread in calls}) == 1
    assert all(tokens % 256 == 0 for tokens, _ in calls)
    np.testing.assert_allclose(models[0].score(PAIRS * 9), expected, rtol=0, atol=1e-5)
    assert len(static) == 8, "every weight and bias of the compiled function"


@pytest.mark.parametrize("optimize", COMPILED)
@pytest.mark.parametrize("architecture", ["deberta", "modernbert"])
def test_unsupported_architectures_are_refused(
    architecture: str, optimize: Optimize, tmp_path: Path
) -> None:
    folder = save_reranker(architecture, tmp_path)
    refused = rf"optimize is '{optimize}', and .* can be compiled"
    with pytest.raises(ConfigurationError, match=refused):
        Reranker(folder, device="cpu", optimize=optimize).warm_up()


def test_cuda_graphs_on_a_cpu_are_refused(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    refused = (
        r"optimize is 'reduce-overhead', .* computed on 'cpu'; allowed there are 'none' and "
        r"'compile'\. Set one of these, or device to a CUDA device\."
    )
    with pytest.raises(ConfigurationError, match=refused):
        Reranker(folder, device="cpu", optimize="reduce-overhead").warm_up()


def test_other_backends_are_refused(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    with pytest.raises(ConfigurationError, match=r"overhead', but .* only 'torch' can"):
        Reranker(folder, backend="sbert", device="cpu", optimize="reduce-overhead").warm_up()


def test_an_unknown_optimization_is_refused() -> None:
    allowed = "optimize is 'tensorrt'; allowed are none, compile, reduce-overhead"
    with pytest.raises(ConfigurationError, match=allowed):
        Reranker(optimize="tensorrt")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_generated_code_computes_the_same_scores(device: str) -> None:
    compiled = Reranker(device=device, dtype="float32", optimize="compile", activation="none")
    expected = Reranker(device=device, dtype="float32", activation="none").score(PAIRS * 8)
    np.testing.assert_allclose(compiled.score(PAIRS * 8), expected, rtol=0, atol=1e-5)
    compiled.close()


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["bert", "electra", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cuda_graphs_compute_the_same_scores(
    architecture: str, dtype: Dtype, tmp_path: Path
) -> None:
    """Each size is run for warm-up, recording and replay, interleaved with other sizes."""
    folder = save_reranker(architecture, tmp_path)
    graphs = Reranker(
        folder, device="cuda:0", dtype=dtype, optimize="reduce-overhead", activation="none"
    )
    plain = Reranker(folder, device="cuda:0", dtype=dtype, activation="none")
    batches = [PAIRS[start:] + PAIRS[:start] for start in range(7)] + [PAIRS[:1], PAIRS * 8]
    for batch in batches * 4:
        assert_close(graphs.score(batch), plain.score(batch), dtype)
    assert not graphs.engine.backend.is_padded
    graphs.close()


@pytest.mark.gpu
def test_models_with_cuda_graphs_share_a_device_among_threads(tmp_path: Path) -> None:
    folders = [save_reranker(name, tmp_path / name) for name in ("bert", "xlm-roberta")]
    settings: dict[str, Any] = {"device": "cuda:0", "dtype": "float16"}
    models = [
        Reranker(folder, optimize="reduce-overhead", **settings, activation="none")
        for folder in folders
    ]
    batches = [PAIRS[:1], PAIRS, PAIRS[::-1], PAIRS * 8]
    expected = [
        [Reranker(folder, **settings, activation="none").score(batch) for batch in batches]
        for folder in folders
    ]

    def work(number: int) -> None:
        index = number % len(models)
        for row in np.random.default_rng(number).permutation(len(batches) * 5) % len(batches):
            assert_close(models[index].score(batches[row]), expected[index][row], "float16")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for model in models:
        model.close()


@pytest.mark.gpu
def test_each_compiled_layer_is_replayed_in_one_launch(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    graphs = Reranker(
        folder, device="cuda:0", dtype="float16", optimize="reduce-overhead", activation="none"
    )
    for _ in range(3):
        graphs.score(PAIRS)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        graphs.score(PAIRS)
    names = [event.name for event in profile.events()]
    layers = graphs.engine.backend._packed._layers._layers  # type: ignore[attr-defined]
    assert names.count("cudaGraphLaunch") == len(layers) - 1
    graphs.close()


def assert_close(scores: Any, expected: Any, dtype: Dtype) -> None:
    assert np.isfinite(scores).all()
    tolerance = 1e-4 if dtype == "float32" else 0.02 * (1 + np.abs(expected).max())
    assert np.abs(scores - expected).max() < tolerance
