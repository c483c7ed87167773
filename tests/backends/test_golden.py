"""Golden scores of the embedded model for 200 pairs of real text, in every configuration.

The golden scores are those of sentence-transformers in float32. After a change of the weights, run
``python -m benchmarks.golden`` and then ``python -m benchmarks.tables``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.golden import pairs
from benchmarks.golden.ways import WAYS, compare
from benchmarks.tables import committed
from rerank_plugins import Reranker
from rerank_plugins.errors import ConfigurationError

COMMAND = "python -m benchmarks.golden"


@pytest.fixture(scope="module")
def golden() -> pairs.Golden:
    return pairs.read()


def test_golden_scores_belong_to_these_weights_and_texts(
    golden: pairs.Golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert len(set(golden.pairs)) == 200
    assert np.ptp(golden.scores) > 5
    content = json.loads(pairs.FILE.read_text("utf-8"))
    file = tmp_path / "golden.json"
    monkeypatch.setattr(pairs, "FILE", file)
    for name in ("weights", "texts"):
        file.write_text(json.dumps({**content, name: "0" * 64}), "utf-8")
        with pytest.raises(RuntimeError, match=COMMAND):
            pairs.read()


@pytest.mark.slow
def test_torch_equals_the_reference(golden: pairs.Golden) -> None:
    scores = Reranker(dtype="float32", activation="none").score(golden.pairs)
    result = compare(scores, golden)
    assert result["largest_difference"] < WAYS["torch, float32"].difference, COMMAND
    assert result["kendall_tau"] > WAYS["torch, float32"].tau, COMMAND
    assert result["other_first"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_every_configuration_is_within_its_bounds(name: str, golden: pairs.Golden) -> None:
    way = WAYS[name]
    try:
        with way.opened() as score:
            result = compare(score(golden.pairs), golden)
    except ConfigurationError as error:
        pytest.skip(f"this machine refuses it: {error}")
    assert result["largest_difference"] < way.difference, COMMAND
    assert result["kendall_tau"] > way.tau, COMMAND


def test_committed_results_are_within_the_bounds() -> None:
    ways = committed("golden")["ways"]
    assert ways.keys() == WAYS.keys()
    for name, result in ways.items():
        if "refused" not in result:
            assert result["largest_difference"] < WAYS[name].difference, name
            assert result["kendall_tau"] > WAYS[name].tau, name
            assert result["allowed_difference"] == WAYS[name].difference, name
