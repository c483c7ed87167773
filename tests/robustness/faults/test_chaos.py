"""Thousands of random faults under load: no request is lost, and no score is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.common import read_results
from benchmarks.fault_injection import FAULTS
from benchmarks.robustness import inject_faults
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import TextPair


def check(result: dict[str, Any]) -> None:
    assert (result["lost"], result["wrong"]) == (0, 0), result
    assert result["right_after_the_faults"] == result["engines"]
    assert (result["tokens_left"], result["threads_left"]) == (0, 0)
    assert min(result["outcomes"][kind] for kind in ("right", "partly", "error", "cancelled")) > 0


@pytest.mark.slow
def test_thousands_of_faults_lose_no_request_and_change_no_score() -> None:
    result = inject_faults(FakeCrossEncoder(), requests=2_000, engines=4, seed=1_000)
    check(result)
    assert sum(result["faults"].values()) > 1_000
    assert min(result["faults"].values()) > 0


@pytest.mark.slow
def test_faults_with_the_bundled_model() -> None:
    backend = TorchCrossEncoder(TorchCrossEncoder.resolve(ModelConfig(dtype="float32")))
    backend.run(backend.prepare([TextPair("query", "text " * 9)] * 64))  # starts its CPU threads
    check(inject_faults(backend, requests=300, engines=2, seed=2_000))
    backend.close()


def test_the_stored_results_have_no_lost_or_wrong_request() -> None:
    measured: dict[str, dict[str, float]] = {}
    injected: dict[str, dict[str, float]] = {}
    for row in read_results("faults").rows:
        if row.dataset == "all":
            measured.setdefault(row.system, {})[row.metric] = row.value
        else:
            injected.setdefault(row.system, {})[row.dataset] = row.value
    assert len(measured) == 2
    for system, metrics in measured.items():
        check({**metrics, "outcomes": {**metrics, "partly": metrics["partial"]}})
        assert injected[system].keys() == set(FAULTS)
        assert metrics["faults"] == sum(injected[system].values())
    assert measured["backend that counts words"]["faults"] > 4_000
