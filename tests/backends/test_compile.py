"""torch.compile changes no score, and compiles once for every number of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from rerank_plugins import Reranker
from rerank_plugins.errors import ConfigurationError
from tests.tiny_models import TEXTS, save_reranker

PAIRS = [(TEXTS[0], " ".join(TEXTS[:n])) for n in range(7)]


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "electra"])
def test_one_graph_serves_every_layer_and_number_of_tokens(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph as it is captured, run without generating code, which takes a compiler."""
    counter = CompileCounterWithBackend("eager")
    usual = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: usual(function, backend=counter))
    folder = save_reranker(architecture, tmp_path)
    compiled = Reranker(folder, device="cpu", dtype="float32", optimize="compile")
    plain = Reranker(folder, device="cpu", dtype="float32")
    assert compiled.engine is not plain.engine
    for repeats in (1, 2, 5, 9):
        wanted = plain.score(PAIRS * repeats)
        np.testing.assert_allclose(compiled.score(PAIRS * repeats), wanted, rtol=0, atol=1e-5)
    assert not compiled.engine.backend.padded
    assert counter.frame_count == 1


@pytest.mark.parametrize("architecture", ["deberta", "modernbert"])
def test_what_cannot_be_compiled_is_refused(architecture: str, tmp_path: Path) -> None:
    folder = save_reranker(architecture, tmp_path)
    with pytest.raises(ConfigurationError, match=r"optimize is 'compile', and .* can be compiled"):
        Reranker(folder, device="cpu", optimize="compile").warm_up()


def test_an_unknown_optimisation_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="optimize is 'tensorrt'; allowed are none"):
        Reranker(optimize="tensorrt")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in torch's code generator
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_generated_code_gives_the_scores(device: str) -> None:
    compiled = Reranker(device=device, dtype="float32", optimize="compile")
    wanted = Reranker(device=device, dtype="float32").score(PAIRS * 8)
    np.testing.assert_allclose(compiled.score(PAIRS * 8), wanted, rtol=0, atol=1e-5)
    compiled.close()
