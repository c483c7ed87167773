"""The committed tables are what the committed results give; the measures themselves run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration, cascade, concurrency, cpu, fusion, quality, tables
from benchmarks.candidates import Candidates, candidates
from benchmarks.cpu_table import cpu_table
from benchmarks.first_stage import first_stage
from benchmarks.load.memory import measure_soak
from rerank_plugins import Reranker
from rerank_plugins.core.types import ModelIdentity
from rerank_plugins.testing import FakeCrossEncoder


@pytest.mark.parametrize("name", tables.PAGES)
def test_the_pages_show_the_committed_results(name: str) -> None:
    page = tables.PAGES[name].read_text(encoding="utf-8")
    assert tables.renewed(name) == page
    assert tables.filled(page, name, "") != page


def test_everything_was_measured() -> None:
    results = json.loads(concurrency.RESULTS.read_text(encoding="utf-8"))
    assert results.keys() == concurrency.MEASURES.keys()


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """Two texts and one question that names one of them."""
    (tmp_path / "qrels").mkdir()
    rows = [{"_id": "a", "title": "", "text": "Rain."}, {"_id": "b", "title": "", "text": "Tea."}]
    corpus = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    question = json.dumps({"_id": "q", "text": "What is rain?"})
    (tmp_path / "queries.jsonl").write_text(question, encoding="utf-8")
    qrels = "query-id\tcorpus-id\tscore\nq\ta\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    return tmp_path


def test_quality_of_a_set(small_set: Path) -> None:
    found = quality.measure(small_set, 5, Reranker())
    assert found["bi_encoder"] == found["two_stages"] == {"nDCG@10": 1.0, "RR@10": 1.0}
    assert found["pairs"] == 2
    assert found["gain"]["nDCG@10"]["verdict"] == "no clear difference"


def test_candidates_of_a_set(small_set: Path) -> None:
    scored = small_set / "scored"
    scored.mkdir()
    found = candidates(small_set, 5, Reranker(), scored)
    assert found.grades.tolist() == [[1, 0]]
    assert found.missed.shape == (1, 0)
    assert found.raw_scores[0, 0] > found.raw_scores[0, 1]
    assert found.first_stage[0, 0] > found.first_stage[0, 1]
    (small_set / "corpus.jsonl").unlink()
    again = candidates(small_set, 5, Reranker(), scored)  # from the file
    assert np.array_equal(again.raw_scores, found.raw_scores)


def test_calibration_and_fusion_of_candidates() -> None:
    rng = np.random.default_rng(0)
    grades = (rng.random((50, 10)) < 0.3).astype(np.int64)
    grades[:, 0] = 1
    noise = rng.normal(0, 1, (2, 50, 10)).astype(np.float32)
    raw, first = 3 * grades + noise
    found = Candidates(raw, first, grades, np.zeros((50, 0), dtype=np.int64))
    model = ModelIdentity("mini", None, "torch", "float32", 512)
    calibrated = calibration.measure(found, model)
    assert calibrated["platt"]["calibration_error"] < calibrated["sigmoid"]["calibration_error"]
    fused = fusion.measure(found)
    assert fused["weighted"]["over_first_stage"]["verdict"] == "better"
    assert fused["fitted"]["nDCG@10"] > fused["first_stage"]


def test_cascades_on_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rankings made from the full run's scores are those of the real cascade."""
    monkeypatch.setattr(cascade, "KEEPS", (2, 99))
    (tmp_path / "qrels").mkdir()
    texts = {"a": "Rain falls.", "b": "Tea is hot.", "c": "It rains.", "d": "Fog."}
    corpus = "\n".join(json.dumps({"_id": key, "text": text}) for key, text in texts.items())
    (tmp_path / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    question = json.dumps({"_id": "q", "text": "What is tea?"})
    (tmp_path / "queries.jsonl").write_text(question, encoding="utf-8")
    qrels = "query-id\tcorpus-id\tscore\nq\tb\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    found = cascade.measure(tmp_path, 5, Reranker())
    assert list(found["cascades"]) == ["2"]
    assert found["full"]["nDCG@10"] == found["cascades"]["2"]["nDCG@10"] == 1
    assert found["cascades"]["2"]["timed"]["same_top_10"] == 1
    assert 0 < found["cascades"]["2"]["timed"]["tokens_share"] < 1
    assert found["candidates"] == len(texts)


def test_a_measure_keeps_the_results_of_the_others(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    concurrency.store(file, "soak", {"seconds": 1})
    concurrency.store(file, "latency", {"ratio": 2})
    results = json.loads(file.read_text(encoding="utf-8"))
    assert list(results) == ["latency", "soak"]
    assert results["soak"]["seconds"] == 1
    assert results["latency"]["environment"]["packages"]["torch"]


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        concurrency.main(["speed"])
    assert "there are adapters" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mixed_load_leaves_nothing_behind() -> None:
    """A short soak: requests are served and cancelled, and no thread stays."""
    found = measure_soak(seconds=20.0)
    assert found["requests"] > 50
    assert found["cancelled"] > 0
    assert found["threads"]["end"] <= found["threads"]["after_a_third"]
    assert found["resident_mib"]["largest"] < 2_000


def test_speed_and_quality_of_two_rankers(small_set: Path) -> None:
    found = first_stage(small_set, 5)
    one, other = (Reranker(FakeCrossEncoder()) for _ in range(2))
    quality_found = cpu.measure_quality(found, one, other)
    assert quality_found["pairs"] == 2
    assert quality_found["float32"] == quality_found["int8"]
    assert quality_found["largest_difference"] == 0
    speed = cpu.measure_speed({"peer": one.rank, "ours": other.rank}, found, turns=1)
    assert speed["10"]["peer"]["faster"] == [1, 1, 1]
    results = {
        "model": "fake",
        "turns": 1,
        "passages": "small",
        "environment": {"cores": 2, "cpu": "some"},
        "speed": speed,
        "sets": {"small": quality_found},
    }
    assert "| small | " in cpu_table(results)
