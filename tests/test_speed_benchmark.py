"""The speed benchmark: its protocol, its comparison of scores, its statistics and its tables."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer

import rerank_plugins
from benchmarks import speed_plot, speed_tables
from benchmarks.environment import ROOT
from benchmarks.speed import claims
from benchmarks.speed.agreement import agreement
from benchmarks.speed.cells import FULL, QUICK
from benchmarks.speed.child import Child
from benchmarks.speed.client import SystemFailedError, SystemProcess
from benchmarks.speed.environments.__main__ import LISTS
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import measure
from benchmarks.speed.shapes import SHAPES, Shape, model_folder
from benchmarks.speed.systems import BASELINE, SYSTEMS, obstacle
from benchmarks.speed.workloads import TEXT_SETS, Request, joined, token_counts
from benchmarks.timing import milliseconds, ratio
from rerank_plugins import Reranker
from rerank_plugins.evaluation.datasets import Passage

SYSTEM = "tests.speed_systems:SharedWords"
LOAD: dict[str, Any] = {
    "system": SYSTEM,
    "device": "cpu",
    "dtype": "float32",
    "packages": ["numpy"],
}
BUNDLED = Path(rerank_plugins.__file__).parent / "data" / "squad-dev"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[SystemProcess]:
    with SystemProcess(Path(sys.executable), 1, tmp_path / "log") as started:
        yield started


class Here:
    """A system that answers without a process."""

    def __init__(self, **settings: Any) -> None:
        self.child = Child()
        self.ask("load", model="any", settings=settings, **LOAD)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        answer = self.child.answer({"op": op, **fields})
        if "error" in answer:
            raise SystemFailedError(answer["error"])
        return answer


def test_a_process_scores_whatever_its_library_prints(process: SystemProcess) -> None:
    loaded = process.ask("load", model="any", settings={"offset": 0.5}, **LOAD)
    assert loaded["versions"] == {"numpy": np.__version__}
    answer = process.ask("score", query="red apple", texts=["red apple pie", "sky", "é\u2028"])
    assert answer["scores"] == [2.5, 0.5, 0.5]
    assert 0 < answer["seconds"] < 5
    assert 1 < process.ask("memory", reset=True)["peak_mib"] < 500


def test_a_failed_request_is_reported_and_the_next_is_answered(process: SystemProcess) -> None:
    with pytest.raises(SystemFailedError, match="no model 'missing' on cpu in float32"):
        process.ask("load", model="missing", settings={}, **LOAD)
    process.ask("load", model="any", settings={}, **LOAD)
    assert process.ask("score", query="a", texts=["a"])["scores"] == [1.0]


def test_a_process_that_dies_leaves_its_last_words(process: SystemProcess) -> None:
    process.ask("load", model="any", settings={}, **LOAD)
    with pytest.raises(SystemFailedError, match=r"exit code 3.*the last words"):
        process.ask("score", query="a", texts=["die"])


def test_a_process_that_hangs_is_ended(process: SystemProcess) -> None:
    process.ask("load", model="any", settings={}, **LOAD)
    with pytest.raises(SystemFailedError, match="exit code -9"):
        process.ask("score", timeout_s=0.3, query="a", texts=["hang"])


def test_scores_are_compared_on_the_systems_own_scale() -> None:
    logits = [2.0, -1.0, 30.0]
    sigmoid = [1 / (1 + math.exp(-one)) for one in logits]
    assert agreement(logits, sigmoid, "probability")["equal"]
    assert not agreement(logits, sigmoid, "logit")["equal"]
    assert agreement(logits, [2.000009, -1.0, 30.0002], "logit")["equal"]
    wrong = agreement(logits, [2.0, -1.00002, 30.0], "logit")
    assert not wrong["equal"]
    assert wrong["largest_difference"] == pytest.approx(2e-5)


@pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan]])
def test_missing_scores_are_not_equal(scores: list[float]) -> None:
    found = agreement([1.0, 2.0], scores, "logit")
    assert found == {"largest_difference": None, "equal": False, "same_top": 0.0}


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    """A slow minute meets both: the sums' ratio, 1.9, would show the minute."""
    assert ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])
    assert milliseconds([0.001, 0.002, 0.003])["p50"] == pytest.approx(2.0)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """A run with the right system, a fast one, a wrong one and one that fails."""
    failed: dict[str, str] = {}
    processes = {
        BASELINE: Here(delay_s=0.06),
        "ours": Here(delay_s=0.01),
        "flag": Here(offset=0.25, delay_s=0.06),
    }
    rerankers = Here()
    rerankers.child._system = None
    requests = [Request("red apple", ["red", "sky", "red apple"])] * 4
    found = measure(
        {**processes, "rerankers": rerankers},
        requests,
        shape=SHAPES["mini"],
        count_tokens=lambda request: [20] * len(request.texts),
        drop=failed.__setitem__,
        baseline=BASELINE,
        truth=BASELINE,
        seconds=0.5,
        limits=Limits("cpu"),
    )
    assert list(failed) == ["rerankers"]
    cell = {"shape": "mini", "texts": "nq", "passages": 3, **found}
    about = {
        name: {
            "title": SYSTEMS[name].title,
            "dtype": "float32",
            "scale": "logit",
            "note": "",
            "versions": {"numpy": "2"},
        }
        for name in processes
    }
    return {
        "quick": True,
        "device": "cpu",
        "threads": 2,
        "baseline": BASELINE,
        "skipped": {"rerankers": failed["rerankers"]},
        "environment": {"cpu": "a CPU", "python": "3", "packages": {"torch": "2"}, "commit": "c"},
        "systems": about,
        "cells": {"mini/nq/10": cell, "mini/nq/100": cell, "mini/faq/3": {**cell, "texts": "faq"}},
    }


def test_a_wrong_peer_is_reported_and_not_dropped(results: dict[str, Any]) -> None:
    systems = results["cells"]["mini/nq/10"]["systems"]
    assert systems["ours"]["equal"]
    assert not systems["flag"]["equal"]
    assert systems["flag"]["largest_difference"] == pytest.approx(0.25)
    assert systems["flag"]["pairs_per_s"] > 0
    assert systems[BASELINE]["speedup"] == 1.0
    assert 1.5 < systems["ours"]["speedup"] < 6.5
    rounds = results["cells"]["mini/nq/10"]["rounds"]
    assert 0 <= results["cells"]["mini/nq/10"]["busy_elsewhere"] <= 1
    assert 2 <= rounds == len(systems["ours"]["seconds"])


def test_tables_of_a_small_result(results: dict[str, Any]) -> None:
    peers = speed_tables.peers_table(results).splitlines()
    assert peers[2].startswith("| rerank_plugins, torch |")
    assert "Not measured: `rerankers`" in "\n".join(peers)
    assert "quick run" in peers[-1]
    scores = speed_tables.scores_table(results)
    (wrong,) = [line for line in scores.splitlines() if "FlagReranker" in line]
    assert "| 2.5e-01 | **no** |" in wrong
    assert speed_tables.cells_table(results).count("| faq | 3 |") == 3
    targets = speed_tables.targets_table(results)
    assert "| at least 2 |" in targets
    assert "| at least 1.5 |" in targets


def test_the_plot_shows_the_ratios(results: dict[str, Any]) -> None:
    drawn = speed_plot.figure(results, "light")
    shown = sorted(patch.get_width() for patch in drawn.axes[0].patches)  # type: ignore[attr-defined]
    systems = results["cells"]["mini/nq/10"]["systems"].values()
    assert shown == sorted(2 * [one["speedup"] for one in systems])
    light = speed_plot.svg(results, "light")
    assert light == speed_plot.svg(results, "light")
    assert light.startswith("<?xml")
    assert light != speed_plot.svg(results, "dark")


def test_claims_are_met_or_not() -> None:
    quick = {"quick": False}
    found = speed_tables.claims_table(
        {
            "overhead": {
                "passages": 100,
                "rounds": 9,
                "dtype": "float32",
                "over_core": {"langchain": 0.02, "llama_index": 0.05},
                **quick,
            },
            "growth": {
                "dtype": "float32",
                "sizes": {"10": {"us_per_token": 9.0}, "10000": {"us_per_token": 8.0}},
                "slope": 1.2,
                "memory_growth_mib": 1.0,
                "text_mib": 4.0,
                **quick,
            },
        }
    )
    assert [line.split("|")[-2].strip() for line in found.splitlines()[2:]] == [
        "yes",
        "**no**",
        "**no**",
        "yes",
    ]


def test_every_system_can_be_built() -> None:
    for name, system in SYSTEMS.items():
        module, cls = system.target.split(":")
        file = ROOT / "benchmarks" / "speed" / "peers" / f"{module}.py"
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert cls in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}, name
        if system.environment:
            pins = LISTS[system.environment].read_text(encoding="utf-8").lower().splitlines()
            assert "torch==2.13.0" in pins
            pinned = {line.partition("==")[0].replace("_", "-") for line in pins}
            assert {one.lower() for one in system.packages} <= pinned, name
            assert obstacle(system, "cpu", None) is not None
    assert obstacle(SYSTEMS["flashrank"], "cuda:0", None) == "does not run on cuda"
    assert obstacle(SYSTEMS[BASELINE], "cpu", None) is None
    for cell in (*FULL, *QUICK):
        assert cell.shape in SHAPES
        assert cell.texts in TEXT_SETS


def test_random_models_give_the_scores_of_the_reference(tmp_path: Path) -> None:
    shape = Shape("tiny", 2, 32, 64, 4, 31_000, "xlm-roberta")
    folder = model_folder(shape, tmp_path / "tiny")
    assert model_folder(shape, folder) == folder
    request = Request("who wrote faust", ["rain falls", "goethe wrote faust in weimar " * 9])
    reference = CrossEncoder(str(folder), device="cpu")
    logits = reference.predict(
        [(request.query, text) for text in request.texts], activation_fn=_identity
    )
    ours = Reranker(folder, device="cpu", dtype="float32")
    assert ours.score([(request.query, text) for text in request.texts]) == pytest.approx(
        np.asarray(logits), abs=1e-5
    )
    tokens = token_counts(AutoTokenizer.from_pretrained(folder), request)
    assert sum(tokens) == ours.rank(request.query, request.texts).stats.tokens


def _identity(logits: Any) -> Any:
    return logits


def test_neighbours_are_joined_under_their_title() -> None:
    words = "word " * 200
    passages = [Passage(str(n), "A" if n < 3 else "B", words) for n in range(4)]
    texts = joined(passages)
    assert [len(text.split()) for text in texts] == [401, 201, 201]
    assert [text[0] for text in texts] == ["A", "A", "B"]


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_quick_run_for_real(tmp_path: Path) -> None:
    for name in {one.folder for one in TEXT_SETS.values()}:
        (tmp_path / name).symlink_to(BUNDLED)
    output = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--quick", "--minutes", "12"]
    command += ["--only", "ours", "--data", str(tmp_path), "--output", str(output)]
    subprocess.run([*command, "--work", str(tmp_path / "work")], check=True, cwd=ROOT)  # noqa: S603
    found = json.loads(output.read_text(encoding="utf-8"))
    assert list(found["cells"]) == [cell.name for cell in QUICK]
    for cell in found["cells"].values():
        assert cell["systems"].keys() == {"ours", BASELINE}
        ours, theirs = cell["systems"]["ours"], cell["systems"][BASELINE]
        assert ours["equal"]
        assert 0 <= ours["padding_share"] < 0.15
        assert 0 <= theirs["padding_share"] < 0.8
        assert 0 < theirs["share_of_limit"] < 2
        assert 100 < ours["peak_mib"] < 4_000
    stored = tmp_path / "claims.json"
    claims.main(data=tmp_path, quick=True, output=stored)
    found = json.loads(stored.read_text(encoding="utf-8"))
    table = speed_tables.claims_table(found)
    assert table.count("\n| ") == 7
    profiles = {
        "profile": speed_tables.profile_table,
        "profile_int8": speed_tables.int8_profile_table,
    }
    for name, made in profiles.items():
        few, many = (one["shares"] for one in found[name]["passages"].values())
        assert max(many, key=many.__getitem__) == "matrix products"
        for shares in (few, many):
            assert sum(shares.values()) == pytest.approx(1, abs=0.05)
        assert made(found).count("\n| ") == len(many) + 1
