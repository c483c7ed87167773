"""Golden scores of the embedded model for 200 pairs of real text, in every configuration.

The golden scores are those of sentence-transformers in float32. After a change of the weights, run
``python -m benchmarks robustness DATA --suites golden`` and then ``python -m benchmarks tables``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import golden as golden_scores
from benchmarks.common import read_results
from benchmarks.golden import COMMAND, CONFIGURATIONS, Golden, compare, read_golden
from rerank_plugins import Reranker
from rerank_plugins.errors import ConfigurationError


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden()


def test_golden_scores_belong_to_these_weights_and_texts(
    golden: Golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert len(set(golden.pairs)) == 200
    assert np.ptp(golden.scores) > 5
    stored = json.loads(golden_scores.FILE.read_text("utf-8"))
    file = tmp_path / "golden.json"
    monkeypatch.setattr(golden_scores, "FILE", file)
    for name in ("weights", "texts"):
        file.write_text(json.dumps({**stored, name: "0" * 64}), "utf-8")
        with pytest.raises(RuntimeError, match=COMMAND):
            read_golden()


@pytest.mark.slow
def test_torch_equals_the_reference(golden: Golden) -> None:
    scores = Reranker(dtype="float32", activation="none").score(golden.pairs)
    result = compare(scores.astype(np.float32), golden)
    assert result["largest_difference"] < CONFIGURATIONS["torch, float32"].difference, COMMAND
    assert result["kendall_tau"] > CONFIGURATIONS["torch, float32"].tau, COMMAND
    assert result["other_first"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_is_within_its_bounds(name: str, golden: Golden) -> None:
    configuration = CONFIGURATIONS[name]
    try:
        with configuration.open_scorer() as score:
            result = compare(score(golden.pairs), golden)
    except ConfigurationError as error:
        pytest.skip(f"this machine refuses it: {error}")
    assert result["largest_difference"] < configuration.difference, COMMAND
    assert result["kendall_tau"] > configuration.tau, COMMAND


def test_stored_results_are_within_the_bounds() -> None:
    measured: dict[str, dict[str, float]] = {}
    for row in read_results("golden").rows:
        if row.system:
            measured.setdefault(row.system, {})[row.metric] = row.value
    assert measured.keys() == CONFIGURATIONS.keys()
    for name, metrics in measured.items():
        assert metrics["largest_difference"] < CONFIGURATIONS[name].difference, name
        assert metrics["kendall_tau"] > CONFIGURATIONS[name].tau, name
        assert metrics["allowed_difference"] == CONFIGURATIONS[name].difference, name
