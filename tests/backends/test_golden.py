"""The embedded model's scores of 200 pairs of real text, whichever way they are computed.

They are sentence-transformers' own, in float32. New weights need new ones: run
``python -m benchmarks.golden``, which measures every way too, then ``python -m benchmarks.tables``.
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

HOW = "python -m benchmarks.golden"


@pytest.fixture(scope="module")
def golden() -> pairs.Golden:
    return pairs.read()


def test_they_are_of_these_weights_and_texts(
    golden: pairs.Golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert len(set(golden.pairs)) == 200
    assert np.ptp(golden.scores) > 5
    kept = json.loads(pairs.FILE.read_text("utf-8"))
    other = tmp_path / "golden.json"
    monkeypatch.setattr(pairs, "FILE", other)
    for name in ("weights", "texts"):
        other.write_text(json.dumps({**kept, name: "0" * 64}), "utf-8")
        with pytest.raises(RuntimeError, match=HOW):
            pairs.read()


@pytest.mark.slow
def test_torch_scores_as_the_reference(golden: pairs.Golden) -> None:
    scores = Reranker(dtype="float32").score(golden.pairs)
    found = compare(scores, golden)
    assert found["largest_difference"] < WAYS["torch, float32"].difference, HOW
    assert found["kendall_tau"] > WAYS["torch, float32"].tau, HOW
    assert found["other_first"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_every_way_is_within_its_bounds(name: str, golden: pairs.Golden) -> None:
    way = WAYS[name]
    try:
        with way.opened() as score:
            found = compare(score(golden.pairs), golden)
    except ConfigurationError as error:
        pytest.skip(f"this machine refuses it: {error}")
    assert found["largest_difference"] < way.difference, HOW
    assert found["kendall_tau"] > way.tau, HOW


def test_what_is_committed_is_within_the_bounds() -> None:
    ways = committed("golden")["ways"]
    assert ways.keys() == WAYS.keys()
    for name, found in ways.items():
        if "refused" not in found:
            assert found["largest_difference"] < WAYS[name].difference, name
            assert found["kendall_tau"] > WAYS[name].tau, name
            assert found["allowed_difference"] == WAYS[name].difference, name
