"""Thousands of random faults under load, as docs/reliability.md counts them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.reliability import faults
from benchmarks.reliability.chaos import FAULTS
from benchmarks.tables import committed
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.testing import FakeCrossEncoder


def check(found: dict[str, Any]) -> None:
    assert (found["lost"], found["wrong"]) == (0, 0), found
    assert found["right_after_the_faults"] == found["engines"]
    assert (found["tokens_left"], found["threads_left"]) == (0, 0)
    assert min(found["outcomes"][kind] for kind in ("right", "partly", "error", "cancelled")) > 0


@pytest.mark.slow
def test_thousands_of_faults_lose_nothing_and_make_nothing_wrong() -> None:
    found = faults.measure(FakeCrossEncoder(), requests=2_000, engines=4, seed=1_000)
    check(found)
    assert found["faults_injected"] > 1_000
    assert min(found["faults"].values()) > 0


@pytest.mark.slow
def test_the_same_over_the_embedded_model() -> None:
    backend = TorchCrossEncoder(TorchCrossEncoder.resolve(ModelConfig(dtype="float32")))
    check(faults.measure(backend, requests=300, engines=2, seed=2_000))
    backend.close()


def test_what_was_counted_is_what_is_promised() -> None:
    results = committed("reliability-faults")
    for name in ("words", "mini"):
        check(results[name])
        assert results[name]["faults"].keys() == set(FAULTS)
        assert results[name]["faults_injected"] == sum(results[name]["faults"].values())
    assert results["words"]["faults_injected"] > 4_000
