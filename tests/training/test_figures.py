"""Calibration, evaluation and the card; the whole pipeline from groups to a model's folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import SETS
from rerank_plugins import Reranker
from rerank_plugins.errors import InvalidInputError
from tests.training.conftest import LISTS, SQUAD
from training.calibrate import calibration, fitted
from training.card import write_card
from training.evaluate import compared, evaluate, systems_of
from training.settings import DEFAULT


def test_the_temperature_is_the_one_that_scores_were_made_with() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 50_000)
    labels = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    assert fitted(logits * 1.7, labels) == pytest.approx(1.7, rel=0.03)


def test_calibration_is_measured_on_lists_it_was_not_fitted_on() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(-4, 2, (400, 8))
    scores[:, 0] += 6
    found = calibration((scores * 3).astype(np.float32), seed=0)
    assert found["pairs"] == 3200
    assert found["calibration_error"] < found["calibration_error_at_1"]
    assert found["brier"] < found["brier_at_1"]


def test_every_comparison_is_of_systems_that_are_measured() -> None:
    models = ["packaged", "trained"]
    pairs, quick = (compared(models, systems_of(models, quick=one)) for one in (False, True))
    assert len(pairs) == 11
    assert ("packaged fused", "trained fused") in quick
    assert set(pairs) - set(quick) == {one for one in pairs if "over BM25's best 100" in one[1]}


def small_sets(folder: Path) -> Path:
    """Copy a part of the packaged set under the names of all four."""
    first = folder / SETS[0]
    shutil.copytree(SQUAD, first)
    (first / "ATTRIBUTION.md").unlink()
    qrels = (SQUAD / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    (first / "qrels" / "test.tsv").write_text("\n".join(qrels[:7]) + "\n", encoding="utf-8")
    for name in SETS[1:]:
        shutil.copytree(first, folder / name)
    return folder


@pytest.mark.slow
def test_a_second_evaluation_computes_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, kept = small_sets(tmp_path / "sets"), tmp_path / "kept"
    found = evaluate({"packaged": Reranker()}, sets, kept, 3)

    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("benchmarks.first_stage.DenseIndex.__init__", fail)
    monkeypatch.setattr(Reranker, "rank_many", fail)
    again = evaluate({"packaged": Reranker()}, sets, kept, 3)
    assert again["sets"] == found["sets"]
    one = found["sets"]["squad-dev"]
    assert one["questions"] == 3
    assert one["systems"]["packaged over the bi-encoder's best 50"]["nDCG@10"]["mean"] > 0.5
    assert all(0 < pair["p"] <= 1 for pair in one["comparisons"])


def step(*arguments: str | Path) -> None:
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "training", *map(str, arguments)],
        check=True,
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )


@pytest.mark.slow
def test_all_steps_from_groups_to_a_model_card(groups: Path, tmp_path: Path) -> None:
    text = DEFAULT.read_text(encoding="utf-8")
    text = text[: text.index("[sources.")]
    text = text.replace("lists = 32", "lists = 4").replace("warmup = 100", "warmup = 1")
    counts = ", ".join(f"{kind} = {count}" for kind, count in LISTS.items())
    for name in ("first", "second"):
        text += f"[sources.{name}]\npassages = 40\nheld_out = 2\nlists = {{ {counts} }}\n"
    config = tmp_path / "config.toml"
    config.write_text(text, encoding="utf-8")
    own: tuple[str | Path, ...] = ("--work", tmp_path, "--config", config)
    step("prepare", groups, *own)
    step("mine", *own)
    step("train", *own, "--steps", "2")
    step("train", *own, "--hours", "0.0001")
    step("export", *own)
    step("evaluate", small_sets(tmp_path / "sets"), "--work", tmp_path, "--questions", "2")
    step("card", "--work", tmp_path)
    made = tmp_path / "export"
    assert json.loads((made / "training.json").read_text())["steps"] == 3
    card = (made / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "$" not in card
    assert "| trained over BM25's best 100 |" in card
    assert Reranker(made).rank("who wrote faust", ["Goethe did.", "It rains."])[0].index == 0


def test_a_card_without_figures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="run the steps export and evaluate"):
        write_card(tmp_path)
