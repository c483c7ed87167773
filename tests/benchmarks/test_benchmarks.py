"""Smoke tests of the benchmarks: they run on small data, and the pages show the stored rows."""

from __future__ import annotations

import ast
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from benchmarks import load, quality, scores, structure, tables, tradeoffs
from benchmarks.__main__ import main, make_parser
from benchmarks.common import (
    ROOT,
    Row,
    describe_environment,
    make_rows,
    median_ratio,
    read_results,
    save_results,
)
from benchmarks.retrieval import SYSTEMS, Candidates, make_pool, score_candidates
from benchmarks.servers import request_bodies, send_requests
from benchmarks.soak import Sample, summarize
from benchmarks.speed import backends, costs
from benchmarks.speed.environments import REQUIREMENTS
from benchmarks.speed.measure import compare_scores, measure
from benchmarks.speed.models import SHAPES, Shape, model_folder
from benchmarks.speed.process import SystemFailedError, SystemProcess
from benchmarks.speed.run import ALL, QUICK, choose_cells
from benchmarks.speed.systems import BASELINE, obstacle
from benchmarks.speed.systems import SYSTEMS as SPEED_SYSTEMS
from benchmarks.speed.texts import TEXT_SETS, Request
from benchmarks.speed.worker import Worker
from rerank_plugins import Reranker
from rerank_plugins.evaluation import read_beir
from rerank_plugins.evaluation.metrics import per_query
from rerank_plugins.serving import ServerSettings
from rerank_plugins.testing import FakeCrossEncoder
from tests.serving.live import live

WORDS = ("rain", "tea", "fog", "gold", "bread", "moon")
COMMON: dict[str, Any] = {
    "system": "tests.benchmarks.shared_words:SharedWords",
    "model": "any",
    "device": "cpu",
    "dtype": "float32",
    "packages": ["numpy"],
}


class InProcess:
    """A system in this process."""

    def __init__(self, **settings: Any) -> None:
        self.worker = Worker()
        self.send("load", settings=settings, **COMMON)

    def send(self, op: str, **fields: Any) -> dict[str, Any]:
        response = self.worker.handle({"op": op, **fields})
        if "error" in response:
            raise SystemFailedError(response["error"])
        return response


@pytest.fixture
def weather(tmp_path: Path) -> Path:
    """Six queries, each about one of twelve texts, two of them an article."""
    folder = tmp_path / "weather"
    (folder / "qrels").mkdir(parents=True)
    passages = [
        {"_id": f"{word}{part}", "title": word, "text": f"{word} is {what}. " + "So it is. " * 30}
        for word in WORDS
        for part, what in enumerate(("seen here", "made of something"))
    ]
    queries = [{"_id": word, "text": f"What is {word} made of?"} for word in WORDS]
    for name, rows in {"corpus": passages, "queries": queries}.items():
        text = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    qrels = "".join(f"{word}\t{word}1\t1\n" for word in WORDS)
    (folder / "qrels" / "test.tsv").write_text("query\tcorpus\tscore\n" + qrels, "utf-8")
    return folder


def values_of(rows: Sequence[Row], system: str, metric: str) -> list[float]:
    return [row.value for row in rows if (row.system, row.metric) == (system, metric)]


def test_rows_are_stored_and_replaced(tmp_path: Path) -> None:
    rows = make_rows("some", "ours", "nq", {"nDCG@10": (0.5, 0.4, 0.6), "p50_ms": 3, "none": None})
    assert [row.metric for row in rows] == ["nDCG@10", "p50_ms"]
    save_results(rows, describe_environment(rounds=2), tmp_path)
    save_results(make_rows("some", "ours", "faq", {"p50_ms": 4}), describe_environment(), tmp_path)
    save_results(make_rows("some", "ours", "nq", {"p50_ms": 5}), describe_environment(), tmp_path)
    results = read_results("some", tmp_path)
    assert [(row.dataset, row.value) for row in results.rows] == [("faq", 4), ("nq", 5)]
    (environment,) = results.environments.values()
    assert environment["packages"]["torch"]
    assert environment["command"].startswith("python")


def test_pages_show_the_stored_results() -> None:
    texts = {page: page.read_text("utf-8") for page in tables.pages()}
    stale = [page.name for page, text in texts.items() if tables.render_page(text) != text]
    assert not stale, "run `python -m benchmarks tables`"


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_can_be_rendered(name: str) -> None:
    header, line, *rows = tables.render_table(name).splitlines()
    assert header.count("|") == line.count("|") == rows[0].count("|")


def test_the_command_line_has_defaults() -> None:
    for command in ("speed", "quality", "load", "robustness"):
        options = make_parser().parse_args([command, "sets"])
        assert options.data == Path("sets")
        assert options.suites
    with pytest.raises(SystemExit):
        make_parser().parse_args(["load", "sets", "--suites", "unknown"])
    assert [cell.name for cell in choose_cells(["main"])] == ["mini/nq/10", "mini/nq/100"]
    with pytest.raises(ValueError, match="unknown cell 'mini/nq/11'"):
        choose_cells(["mini/nq/11"])


def test_scores_are_compared_on_the_scale_of_the_system() -> None:
    logits = [2.0, -1.0, 30.0]
    sigmoid = [1 / (1 + math.exp(-logit)) for logit in logits]
    assert compare_scores(logits, sigmoid, "probability")["equal"]
    assert not compare_scores(logits, sigmoid, "logit")["equal"]
    assert compare_scores(logits, [2.000009, -1.0, 30.0002], "logit")["equal"]
    assert not compare_scores(logits, [2.0, -1.00002, 30.0], "logit")["equal"]
    for wrong in ([1.0], [1.0, math.nan]):
        compared = compare_scores([1.0, 2.0], wrong, "logit")
        assert compared == {"largest_difference": None, "equal": False, "same_top": 0.0}
    assert median_ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_a_system_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with SystemProcess(Path(sys.executable), 1, log) as process:
        loaded = process.send("load", settings={"offset": 0.5}, **COMMON)
        assert loaded["versions"] == {"numpy": np.__version__}
        response = process.send("score", query="red apple", texts=["red apple pie", "sky"])
        assert response["scores"] == [2.5, 0.5]
        with pytest.raises(SystemFailedError, match=r"exit code 3.*the end of the log"):
            process.send("score", query="a", texts=["exit"])
    with SystemProcess(Path(sys.executable), 1, log) as process:
        process.send("load", settings={}, **COMMON)
        with pytest.raises(SystemFailedError, match="exit code -9"):
            process.send("score", timeout_s=0.3, query="a", texts=["hang"])


def test_a_cell_with_a_fast_a_wrong_and_a_failing_system() -> None:
    dropped: dict[str, str] = {}
    failing = InProcess()
    failing.worker._system = None
    processes = {
        BASELINE: InProcess(delay_s=0.06),
        "ours": InProcess(delay_s=0.01),
        "flag": InProcess(offset=0.25, delay_s=0.06),
        "rerankers": failing,
    }
    rows = measure(
        processes,
        [Request("red apple", ["red", "sky", "red apple"])] * 4,
        cell="mini/nq/3",
        count_tokens=lambda request: [20] * len(request.texts),
        drop=dropped.__setitem__,
        baseline=BASELINE,
        reference=BASELINE,
        seconds=0.5,
    )
    ours, wrong = (SPEED_SYSTEMS[name].title for name in ("ours", "flag"))
    assert list(dropped) == ["rerankers"]
    assert values_of(rows, ours, "equal") == [1]
    assert 1.5 < values_of(rows, ours, "speedup")[0] < 6.5
    assert values_of(rows, wrong, "equal") == [0]
    assert values_of(rows, wrong, "largest_difference") == [pytest.approx(0.25)]
    assert values_of(rows, SPEED_SYSTEMS[BASELINE].title, "speedup") == [1]


def test_every_system_has_a_class_and_an_environment() -> None:
    tree = ast.parse((ROOT / "benchmarks" / "speed" / "peers.py").read_text("utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, system in SPEED_SYSTEMS.items():
        assert system.target in classes, name
        if system.environment:
            pins = REQUIREMENTS[system.environment].read_text("utf-8").lower().splitlines()
            pinned = {line.partition("==")[0].replace("_", "-") for line in pins}
            assert {package.lower() for package in (*system.packages, "torch")} <= pinned, name
            assert obstacle(system, "cpu", None) is not None
    for cell in (*ALL, *QUICK):
        assert cell.shape in SHAPES
        assert cell.texts in TEXT_SETS


def test_random_models_have_the_scores_of_the_reference(tmp_path: Path) -> None:
    shape = Shape("tiny", 2, 32, 64, 4, 31_000, "xlm-roberta")
    folder = model_folder(shape, tmp_path / "tiny")
    pairs = [("who wrote faust", text) for text in ("rain", "goethe wrote faust in weimar " * 9)]
    reference = CrossEncoder(str(folder), device="cpu")
    logits = reference.predict(pairs, activation_fn=lambda logits: logits)
    ours = Reranker(folder, device="cpu", dtype="float32", activation="none").score(pairs)
    assert ours == pytest.approx(np.asarray(logits), abs=1e-5)


@pytest.mark.slow
def test_quality_of_every_system(weather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = {name: system for name, system in SYSTEMS.items() if system.model != "mini int8"}
    monkeypatch.setattr(quality, "SYSTEMS", systems)
    trial, work = quality.Trial(read_beir(weather), 0), weather / "work"
    raw = {"mini": trial.score("mini", Reranker(), work)}
    rows = list(trial.rows("weather", raw, trial.time(2, work)))
    for name, system in systems.items():
        run = {
            query: [
                trial.data.passages[position].id for position in trial.corpus.rank(system, text)
            ]
            for query, text in zip(trial.query_ids, trial.queries, strict=True)
        }
        expected = per_query(trial.data.qrels, run, ("nDCG@10",))["nDCG@10"].mean()
        assert values_of(rows, name, "nDCG@10") == [pytest.approx(expected)]
    again = trial.score("mini", Reranker(FakeCrossEncoder()), work)
    assert not np.array_equal(again, raw["mini"], equal_nan=True)


def test_calibration_fusion_and_precision(weather: Path) -> None:
    pool = make_pool(weather, 6)
    reranker = Reranker()
    candidates = score_candidates(pool, reranker)
    assert candidates.grades.sum() == 6
    grades = np.tile([1, 0, 0, 0], (50, 3))
    raw = (3 * grades + np.random.default_rng(0).normal(0, 1, grades.shape)).astype(np.float32)
    many = Candidates(raw, raw, grades, [[]] * 50)
    rows = scores.calibration_rows(many, reranker.engine.identity, "synthetic")
    errors = {row.system: row.value for row in rows if row.metric == "calibration_error"}
    assert errors["Platt"] < errors["sigmoid, not calibrated"]
    assert "isotonic" in errors
    fused = scores.fusion_rows(candidates, "weather")
    assert values_of(fused, "cross-encoder alone", "nDCG@10") == [
        pytest.approx(pool.evaluate(reranker.rank_many(pool.requests), "nDCG@10").mean())
    ]
    fake, other = (Reranker(FakeCrossEncoder()) for _ in range(2))
    precise = scores.precision_rows(pool, fake, {"int8": other}, "weather")
    assert values_of(precise, "int8", "largest_difference") == [0]
    timed = scores.speed_rows({"peer": fake.rank, "ours": other.rank}, pool, rounds=1)
    assert values_of(timed, "peer", "speedup") == [1, 1]


def test_tradeoffs(weather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tradeoffs, "KEEPS", (4, 99))
    monkeypatch.setattr(tradeoffs, "FITTED_KEEP", 4)
    monkeypatch.setattr(tradeoffs, "BUDGETS_MS", (1, 60_000))
    pool = make_pool(weather, 6)
    rows = tradeoffs.cascade_rows(pool, Reranker(), "weather")
    assert 0.2 < values_of(rows, "best 4", "tokens_share")[0] < 0.5
    assert values_of(rows, "best 99", "tokens_share") == []
    (loss,) = values_of(tradeoffs.early_exit_rows(pool, Reranker(), "weather"), "best 4", "loss")
    assert loss <= tradeoffs.LOSS
    timed = tradeoffs.deadline_rows(pool, Reranker(), "weather")
    assert values_of(timed, "60000 ms", "scored") == [12]
    assert values_of(timed, "60000 ms", "late_max_ms")[0] < 0
    articles = tradeoffs.make_long_pool(weather, "articles", 3, 2)
    assert articles.corpus_size == 6
    long = tradeoffs.long_document_rows(articles, "articles")
    windows, truncated = (
        values_of(long, name, "tokens") for name in ("`windows`, best window", "`truncate`")
    )
    assert windows == truncated  # nothing is long here


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["throughput", "loop-lag"])
def test_concurrent_load(suite: str, tmp_path: Path) -> None:
    sets = ROOT / "rerank_plugins" / "data"
    arguments = ["load", str(sets), "--quick", "--suites", suite, "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert read_results("concurrency", tmp_path).rows


async def test_load_of_a_server_and_of_a_process(weather: Path) -> None:
    bodies = request_bodies(weather, 10, 2)
    settings = ServerSettings(model=FakeCrossEncoder(), embedding_model=None)
    with live(settings) as server:
        responses = await send_requests(f"{server.url}/v1/rerank", bodies, 3)
    assert all(0 < latency <= responses.seconds for latency in responses.latencies)
    assert all(len(values) == 2 for values in responses.scores)
    with Reranker(FakeCrossEncoder()) as reranker:
        levels = await load.latency_by_load(reranker, request_bodies(weather, 15, 2))
    assert list(levels) == [1.0, *load.SHARES]
    assert all(0 < levels[share]["p50_s"] <= levels[share]["p95_s"] for share in load.SHARES)


def test_growth_of_memory_is_measured() -> None:
    noise = np.random.default_rng(0).normal(0, 3, 360)
    leak = [Sample(10.0 * n, 800 + noise[n] + n / 12, 9, 20 + n // 100) for n in range(360)]
    metrics = summarize(leak)  # 30 MiB per hour
    _, low, high = metrics["mib_per_hour"]
    assert 16 < low < 30 < high
    assert metrics["open_files_second_half"] > metrics["open_files_first_half"] + 0.5
    assert metrics["threads_second_half"] == metrics["threads_first_half"] == 9


@pytest.mark.slow
def test_prefix_reuse_of_a_decoder() -> None:
    rows = backends.measure_decoder(
        width=64, layers=1, queries=2, documents=3, rounds=1, size="sentence"
    )
    about = {row.metric: row.value for row in rows if not row.system}
    assert about["largest_difference"] < 1e-4 * (1 + about["spread_of_scores"])
    assert 0 < about["shared_share"] < 1


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_quick_speed_run(tmp_path: Path) -> None:
    for name in {source.folder for source in TEXT_SETS.values()}:
        (tmp_path / name).symlink_to(ROOT / "rerank_plugins" / "data" / "squad-dev")
    work, output = tmp_path / "work", tmp_path / "results"
    arguments = ["speed", str(tmp_path), "--cells", "quick", "--systems", "ours"]
    arguments += ["--minutes", "12", "--work", str(work), "--output", str(output)]
    assert main([*arguments, "--suites", "peers", "adapters"]) == 0
    rows = read_results("speed", output).rows
    assert {row.dataset for row in rows} == {cell.name for cell in QUICK}
    ours = SPEED_SYSTEMS["ours"].title
    assert values_of(rows, ours, "equal") == [1] * len(QUICK)
    assert all(0 <= share < 0.15 for share in values_of(rows, ours, "padding_share"))
    assert all(100 < mib < 4_000 for mib in values_of(rows, ours, "peak_mib"))
    assert len(values_of(read_results("adapters", output).rows, "LangChain", "over_core")) == 1
    assert costs.PASSAGES == 100


def test_the_structure_of_the_package_is_reported() -> None:
    modules = structure.read_modules(ROOT)
    edges = structure.import_edges(modules)
    assert edges["rerank_plugins.core.reranker"] <= modules.keys()
    assert structure.import_cycles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"]]
    assert structure.overlap_declarations(modules)
