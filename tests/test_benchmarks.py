"""The committed tables are what the committed results give; the measures themselves run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    batch_simulation,
    calibration,
    cascade,
    concurrency,
    cpu,
    deadline,
    fusion,
    long_documents,
    one_process,
    quality,
    tables,
)
from benchmarks import first_stage as first_stages
from benchmarks.candidates import Candidates, candidates
from benchmarks.cpu_table import cpu_table
from benchmarks.found import first_stage
from benchmarks.load.memory import measure_soak
from benchmarks.quality_tables import quality_table
from benchmarks.serving.load import bodies, load
from benchmarks.ways import WAYS, ordered
from rerank_plugins import Reranker
from rerank_plugins.evaluation.datasets import read_beir
from rerank_plugins.serving import ServerSettings
from rerank_plugins.testing import FakeCrossEncoder, overlap
from rerank_plugins.types import ModelIdentity
from tests.serving.live import live


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


@pytest.mark.slow
def test_quality_of_ways_to_search(weather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {name: way for name, way in WAYS.items() if way.model != "mini int8"}
    monkeypatch.setattr(quality, "WAYS", ways)
    trial = quality.Trial(read_beir(weather), 0, 1)
    reranker, kept = Reranker(), weather / "kept"
    raw = {"mini": trial.score("mini", reranker, kept)}
    for way in ways.values():
        for row, query in enumerate(trial.queries):
            scored = {"mini": raw["mini"][row]}
            there = trial.corpus.answer(way, query)
            assert ordered(way, trial.scores[way.first][row], scored) == there
    times = trial.time(2, kept)
    found = trial.measure(raw, times)
    assert found["pairs"] == {"mini": 72}
    assert found["systems"]["bi-encoder"]["R@50"]["mean"] == 1
    done = reranker.engine.stats().items
    assert np.array_equal(trial.score("mini", reranker, kept), raw["mini"])  # from the file
    assert np.array_equal(trial.time(2, kept), times)
    assert reranker.engine.stats().items == done
    shown = {"dtypes": {"mini": "float32"}, "environment": {"cores": 2, "cpu": "a CPU"}}
    table = quality_table({**shown, "sets": {"vaswani": found}})
    assert table.count("\n| ") == len(ways) + 1


def test_candidates_of_a_set(small_set: Path) -> None:
    scored = small_set / "scored"
    scored.mkdir()
    found = candidates(small_set, 5, Reranker(), scored)
    assert found.grades.tolist() == [[1, 0]]
    assert found.missed.shape == (1, 0)
    assert found.raw_scores[0, 0] > found.raw_scores[0, 1]
    assert found.retrieval_score[0, 0] > found.retrieval_score[0, 1]
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


@pytest.fixture
def weather(tmp_path: Path) -> Path:
    """Six questions, each about one of twelve texts, two of them an article."""
    (tmp_path / "qrels").mkdir()
    words = ("rain", "tea", "fog", "gold", "bread", "moon")
    rows = [
        {"_id": f"{word}{part}", "title": word, "text": f"{word} is {what}. " + "So it is. " * 30}
        for word in words
        for part, what in enumerate(("found here", "made of something"))
    ]
    corpus = "\n".join(map(json.dumps, rows))
    (tmp_path / "corpus.jsonl").write_text(corpus, encoding="utf-8")
    questions = [{"_id": word, "text": f"What is {word} made of?"} for word in words]
    asked = "\n".join(map(json.dumps, questions))
    (tmp_path / "queries.jsonl").write_text(asked, encoding="utf-8")
    qrels = "".join(f"{word}\t{word}1\t1\n" for word in words)
    (tmp_path / "qrels" / "test.tsv").write_text("query\tcorpus\tscore\n" + qrels, "utf-8")
    return tmp_path


@pytest.mark.slow
def test_cascades_on_a_set(weather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "KEEPS", (4, 99))
    monkeypatch.setattr(cascade, "CHOSEN", 4)
    found = cascade.measure(weather, 6, 6, Reranker())
    assert (found["candidates"], list(found["cascades"])) == (12, ["4"])
    kept = found["cascades"]["4"]
    assert 0.2 < kept["tokens_share"] < 0.5
    assert kept["difference"]["mean"] == pytest.approx(kept["nDCG@10"] - found["full"]["nDCG@10"])
    assert found["margin"]["loss"] <= cascade.LOSS
    assert found["margin"]["tokens_share"] <= kept["tokens_share"]
    timed = cascade.time_set(weather, 2, Reranker())
    assert timed["same_top_10"] == 1
    assert 0 < timed["processor_share"] < 1


@pytest.mark.parametrize("first_stage", first_stages.FIRST_STAGES)
def test_first_stages_find_what_is_asked_for(
    weather: Path, first_stage: first_stages.FirstStage
) -> None:
    pool = first_stages.pool_of(weather, 6, 1, 3, first_stage)
    assert pool.scores.shape == (6, 3)
    assert (np.diff(pool.scores) <= 0).all()
    assert all(one in ids[0] for one, ids in zip(pool.asked, pool.ids, strict=True))
    assert first_stages.pool_of(weather, 2, 1, 3, first_stage).asked == pool.asked[:2]


def test_deadlines_on_a_set(weather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "BUDGETS_MS", (1, 60_000))
    pool = first_stages.pool_of(weather, 3, 1, 12, "bm25")
    found = deadline.measure(pool, Reranker())
    none, whole = found["budgets"]
    assert (none["scored_least"], whole["scored_least"]) == (0, 12)
    assert none["nDCG@10"] == found["first_stage_value"]
    assert whole["late_ms"]["max"] < 0
    assert whole["under_15_percent"]


def test_long_documents_of_a_set(weather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_documents, "SECTION", (1, 1))
    passages = read_beir(weather).passages
    sections = long_documents.joined(passages, "sections")
    assert [one.paragraphs for one in sections] == [[passage.id] for passage in passages]
    articles = long_documents.joined(passages, "articles")
    assert [one.paragraphs for one in articles] == [
        [passages[at].id, passages[at + 1].id] for at in range(0, 12, 2)
    ]
    assert all(one.text.count("So it is.") == 60 for one in articles)
    kind = long_documents.Kind("articles", 2, 1.0)
    found = long_documents.measure(weather, kind, 3, "mini")
    assert (found["documents"], found["questions"], found["found"]) == (6, 3, 1)
    assert found["truncate"]["tokens"] == found["windows_1"]["tokens"]  # nothing is long here
    assert found["windows_1"]["over_truncate"]["mean"] == 0


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


def test_simulated_actors_take_the_next_unit_when_they_are_free() -> None:
    assert batch_simulation.makespan([3.0, 1.0, 1.0, 1.0], 1) == 6
    assert batch_simulation.makespan([3.0, 1.0, 1.0, 1.0], 2) == 3
    assert batch_simulation.makespan([1.0], 9) == 1


def test_splitting_a_long_list_is_worth_much_on_many_actors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_simulation, "_SIZES", (1, 4))
    texts = [f"text {number} on tea" for number in range(9)]
    found = batch_simulation.measure_simulated(["What is rain?"], texts)
    assert found["pairs"] == 1_000_000
    many = found["actors"]["128"]
    busy = {name: many[name] - found["start_s"] for name in ("seconds", "seconds_unsplit")}
    assert busy["seconds_unsplit"] > 5 * busy["seconds"]
    one = found["actors"]["1"]
    assert one["seconds_unsplit"] == pytest.approx(one["seconds"], rel=0.05)


async def test_load_gives_each_request_its_scores(small_set: Path) -> None:
    """Three connections share ten requests; the scores stand in the documents' order."""
    asked = bodies(small_set, 10, 2)
    assert asked == bodies(small_set, 10, 2)
    with live(ServerSettings(model=FakeCrossEncoder(), embedding_model=None)) as server:
        served = await load(f"{server.url}/v1/rerank", asked, 3)
    assert all(0 < one <= served.seconds for one in served.latencies)
    for body, scores in zip(asked, served.scores, strict=True):
        expected = [overlap(body["query"], text) for text in body["documents"]]
        assert np.argsort(scores).tolist() == np.argsort(expected).tolist()


async def test_latency_grows_with_the_share_of_the_capacity(small_set: Path) -> None:
    with Reranker() as reranker:
        found = await one_process.measure(reranker, bodies(small_set, 15, 2))
    shares = [one["share"] for one in found["levels"]]
    rates = [one["rate"] for one in found["levels"]]
    assert shares == list(one_process.SHARES)
    assert np.divide(rates, rates[0]) == pytest.approx(np.divide(shares, shares[0]))
    assert all(0 < one["p50_s"] <= one["p95_s"] for one in found["levels"])
    assert found["requests_per_s"] > 0


def test_speed_and_quality_of_two_rankers(small_set: Path) -> None:
    found = first_stage(small_set, 5)
    one, other = (Reranker(FakeCrossEncoder()) for _ in range(2))
    quality_found = cpu.measure_quality(found, one, {"int8": other})
    assert quality_found["pairs"] == 2
    assert quality_found["value"] == quality_found["others"]["int8"]["value"]
    assert quality_found["others"]["int8"]["largest_difference"] == 0
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
    assert f"| small ({quality_found['questions']}) | " in cpu_table(results)
