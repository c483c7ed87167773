"""Training pipeline on a small corpus: prepare, mine, train, resume, export."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from rerank_plugins import Reranker
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.datasets import read_beir
from training.corpus import Corpus
from training.dataset import KINDS, Dataset
from training.manuals import TitleQuestions, sections_of
from training.settings import DEFAULT_CONFIG, read_settings

ROOT = Path(__file__).parents[2]
SQUAD = ROOT / "rerank_plugins" / "data" / "squad-dev"
QUESTIONS = 30
SMALL = {"lists_per_step": 4, "lists_per_micro_batch": 2, "max_length": 64, "warmup_steps": 1}


def write_groups(folder: Path) -> None:
    """Write questions with their passages and the passages before those."""
    data = read_beir(SQUAD)
    with gzip.open(folder / "squad.jsonl.gz", "wt", encoding="utf-8") as file:
        for query, judgments in list(data.qrels.items())[:QUESTIONS]:
            positive = data.by_id[next(iter(judgments))]
            position = data.passages.index(positive)
            negatives = [data.passages[position - back].text for back in (1, 2)]
            group = {
                "query": data.queries[query],
                "positives": [positive.text],
                "negatives": negatives,
            }
            file.write(json.dumps(group) + "\n")


def write_config(file: Path) -> None:
    """Write the default configuration with one source, small steps and a few lists per kind."""
    lines = []
    for line in DEFAULT_CONFIG.read_text(encoding="utf-8").split("[sources.")[0].splitlines():
        name = line.split(" = ")[0]
        lines.append(f"{name} = {SMALL[name]}" if name in SMALL else line)
    counts = ", ".join(f"{kind} = 12" for kind in KINDS)
    lines += ["[sources.squad]", "max_passages = 60", "held_out = 4", f"lists = {{ {counts} }}"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_step(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "training", *map(str, arguments)]
    result = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)  # noqa: S603
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pipeline_resumes_bit_for_bit_and_exports_a_model(tmp_path: Path) -> None:
    config, work, parts = tmp_path / "config.toml", tmp_path / "work", tmp_path / "parts"
    write_groups(tmp_path)
    write_config(config)
    run_step("prepare", tmp_path, "--work", work, "--config", config)
    run_step("mine", "--work", work, "--config", config)

    corpus, dataset = Corpus.load(work / "prepared"), Dataset.load(work / "prepared")
    held_out = {passage for question in corpus.validation for passage in question.positives}
    assert held_out == set(np.flatnonzero(corpus.held_out).tolist())
    assert all(held_out.isdisjoint(question.positives) for question in corpus.questions)
    assert set(dataset.kinds.tolist()) == set(range(len(KINDS)))
    assert all(len(set(row)) == dataset.documents.shape[1] for row in dataset.documents.tolist())

    dataset.save(parts / "prepared")
    run_step("train", "--work", work, "--config", config, "--steps", "3")
    run_step("train", "--work", parts, "--config", config, "--steps", "2")
    run_step("train", "--work", parts, "--config", config, "--steps", "3")
    whole, resumed = (load_file(folder / "state.safetensors") for folder in (work, parts))
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)
    logs = [json.loads(file.read_text()) for file in sorted((parts / "runs").glob("*.json"))]
    assert [log["resumed_at"] for log in logs] == [0, 2]

    run_step("export", "--work", work, "--config", config)
    model = work / "export"
    assert json.loads((model / "training.json").read_text())["steps"] == 3
    assert json.loads((model / "calibration.json").read_text())["temperature"] > 0
    with Reranker(model, dtype="float32") as reranker, Reranker(dtype="float32") as packaged:
        pairs = "who wrote faust", ["Goethe wrote Faust.", "It rains."]
        ranking, before = reranker.rank(*pairs), packaged.rank(*pairs)
    assert ranking[0].index == 0
    assert ranking[0].raw_score != before[0].raw_score


@pytest.mark.parametrize(
    ("old", "new"), [("seed = 7", "seed = -1"), ("seed = 7", "sed = 7"), ("seed = 7", "seed")]
)
def test_an_invalid_configuration_is_refused(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "config.toml"
    text = DEFAULT_CONFIG.read_text(encoding="utf-8")
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not a valid training configuration"):
        read_settings(file)


def test_sections_of_manuals_become_questions(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("<h1>Changing your password</h1><p>Open Settings to change it.</p>")
    (section,) = sections_of(page)
    assert section.text == "Open Settings to change it."
    generator = TitleQuestions([section.text] * 5)
    questions = {
        generator.task_question(section.title, np.random.default_rng(seed)) for seed in range(40)
    }
    assert "How do I change my password?" in questions
    assert generator.task_question("Text boxes", np.random.default_rng(0)) == "Text boxes"
