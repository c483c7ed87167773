"""Plans on real scores: measurements, decision and generated code."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rerank_plugins import BiEncoder, Fusion, Reranker, Windows
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.cli.app import app
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation import Plan, RetrievalSet, Setup, evaluate, from_documents, plan
from rerank_plugins.evaluation.candidates import CandidatePool
from rerank_plugins.evaluation.sweeper import (
    ON_CPU,
    RerankStep,
    default_setups,
    langchain_code,
    llama_index_code,
)
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import FloatArray

MINI = Setup("mini", backend="torch", dtype="float32", max_length=64)
TEXTS = ["It rains.", "Goethe wrote Faust.", "Gounod composed the opera Faust.", "Tea is hot."]


def generated(questions: int, passages: int = 30) -> RetrievalSet:
    """Return passages about animals, and one question in other words for each."""
    colors = ["red", "blue", "green", "white", "black", "brown"]
    animals = ["cat", "dog", "horse", "bird", "fish", "snake", "mouse", "cow", "sheep", "goat"]
    texts = [
        f"The {colors[number % 6]} {animals[number // 6 % 10]} sleeps at home."
        for number in range(passages)
    ]
    queries = [
        f"where does the {animals[number // 6 % 10]} that is {colors[number % 6]} sleep"
        for number in range(questions)
    ]
    qrels = {str(number): [str(number)] for number in range(questions)}
    return from_documents(texts, queries, qrels)


@pytest.fixture(scope="module")
def small_plan() -> Plan:
    invalid = Setup("mini", backend="torch", dtype="nonsense")
    return plan(generated(24), 60_000, setups=[MINI, invalid], show_progress=False)


def test_a_plan_has_its_measurements(small_plan: Plan) -> None:
    options = small_plan.sweep.cells
    assert len(small_plan.sweep.questions) == 24
    assert options[0].steps == ()
    depths = [step.depth for option in options for step in option.steps]
    assert depths == [5, 10, 20, 30]
    times = [option.latency_ms[0] for option in options]
    assert times == sorted(times)
    assert all(median <= p95 for median, p95 in (option.latency_ms for option in options))
    assert "dtype is 'nonsense'" in small_plan.skipped["mini (torch, nonsense)"]
    assert small_plan.recommended in options
    assert 0 <= small_plan.decision.share <= 1


def test_the_quality_of_an_option_equals_that_of_an_evaluation(small_plan: Plan) -> None:
    """An evaluation of the same two stages at the same depth has the same value."""
    data = generated(24)
    for option in (small_plan.sweep.cells[0], small_plan.sweep.cells[2]):
        depth = option.depth or 10
        system: Any = MINI.reranker() if option.steps else BiEncoder()
        evaluation = evaluate(data, {"same": system}, depth=depth, measures=["nDCG@10"])
        expected = evaluation["same"].mean("nDCG@10")
        assert option.interval("nDCG@10").mean == pytest.approx(expected)


def test_a_plan_is_printed_saved_and_drawn(small_plan: Plan, tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(small_plan)
    text = console.export_text()
    assert "use this" in text
    assert "Not measured: mini (torch, nonsense)" in text
    assert str(small_plan).count("<- recommended") <= 1
    small_plan.save(tmp_path / "plan.json")
    values = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    assert values["recommended"] == small_plan.recommended.label
    for name in ("plan.png", "plan.svg"):
        assert small_plan.plot(tmp_path / name).stat().st_size > 5_000
    assert (tmp_path / "plan.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ConfigurationError, match=r"plan\.docx.*png"):
        small_plan.plot(tmp_path / "plan.docx")


@pytest.mark.slow
def test_without_labels_quality_is_agreement() -> None:
    data = generated(24)
    unlabeled = RetrievalSet(data.passages, data.queries, {})
    result = plan(unlabeled, 60_000, setups=[MINI], show_progress=False)
    assert result.decision.verdict == "agreement only"
    assert result.reference == str(MINI)
    assert result.sweep.cells[-1].interval("nDCG@10").mean == pytest.approx(1.0)  # with itself
    assert "this is a proxy" in result.summary


@pytest.mark.slow
def test_cascades_of_two_models_are_compared(tmp_path: Path) -> None:
    """A copy counts as another model; a cascade with a copy does not change the order."""
    shutil.copytree(cross_encoder_folder(), tmp_path / "other")
    other = Setup(str(tmp_path / "other"), backend="torch", dtype="float32", max_length=64)
    result = plan(generated(20), 60_000, setups=[MINI, other], show_progress=False)
    cascades = [option for option in result.sweep.cells if len(option.steps) == 2]
    assert cascades
    single = {
        option.depth: option.interval("nDCG@10").mean
        for option in result.sweep.cells
        if len(option.steps) == 1
    }
    for option in cascades:
        if option.steps[1].depth >= 10:  # the ranks that nDCG@10 measures
            assert option.interval("nDCG@10").mean == pytest.approx(single[option.depth])


BFLOAT16 = Setup("mini", backend="torch", dtype="bfloat16")
FUSED = Setup("mini", fusion=Fusion("weighted", 0.9), long_documents=Windows(overlap=8))
PIPELINES = [
    (),
    (RerankStep(MINI, 3),),
    (RerankStep(FUSED, 3),),
    (RerankStep(MINI, 4), RerankStep(BFLOAT16, 2)),
]


@pytest.mark.parametrize(
    "steps", PIPELINES, ids=["bi-encoder", "cross-encoder", "fusion", "cascade"]
)
@pytest.mark.parametrize("write", [langchain_code, llama_index_code])
def test_the_generated_code_runs_and_ranks(
    steps: tuple[RerankStep, ...], write: Callable[..., str]
) -> None:
    code = write("mini", steps, 2).replace("your question", "Who wrote Faust?")
    names: dict[str, Any] = {"texts": TEXTS}
    exec(compile(code, "generated", "exec"), names)  # noqa: S102
    if write is langchain_code:
        texts = [document.page_content for document in names["documents"]]
    else:
        texts = [node.get_content() for node in names["nodes"]]
    assert texts[0] == TEXTS[1]
    assert len(texts) == 2
    assert all(len(line) <= 120 for line in code.splitlines())


def test_default_setups_fit_the_machine() -> None:
    setups = default_setups(["mini", "other"])
    assert len(setups) in (2 * len(ON_CPU), 4)
    assert {setup.model for setup in setups} == {"mini", "other"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_ms": 0}, "budget_ms is 0"),
        ({"quality": 1.5}, "quality is 1.5"),
        ({"max_questions": 0}, "max_questions is 0"),
        ({"setups": []}, "nothing to try"),
        ({"setups": [Setup("mini", backend="nowhere")]}, "backend is 'nowhere'"),
    ],
)
def test_invalid_arguments_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(generated(4), **options)


@pytest.mark.slow
def test_the_plan_command_and_its_code(tmp_path: Path) -> None:
    data = generated(30)
    (tmp_path / "qrels").mkdir()
    rows = [json.dumps({"_id": passage.id, "text": passage.text}) for passage in data.passages]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows), "utf-8")
    rows = [json.dumps({"_id": key, "text": text}) for key, text in data.queries.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(rows), "utf-8")
    lines = [f"{query}\t{name}\t1" for query, names in data.qrels.items() for name in names]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["head", *lines]), "utf-8")
    arguments = ["plan", str(tmp_path), "--budget-ms", "60000", "--plot", str(tmp_path / "a.svg")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.svg").is_file()
    for framework in ("LangChain", "LlamaIndex"):
        code = re.split(r"# \w+\n", result.stdout.split(f"# {framework}\n")[1])[0]
        exec(compile(code, framework, "exec"), {"texts": TEXTS})  # noqa: S102
    result = CliRunner().invoke(app, [*arguments, "--no-labels", "--json"])
    assert json.loads(result.stdout)["decision"]["verdict"] == "agreement only"


class SleepingCrossEncoder(FakeCrossEncoder):
    """Takes a known time per batch, pair and token."""

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        time.sleep(0.01 + 0.004 * len(batch) + 1e-4 * sum(item.tokens for item in batch))
        return super().run(batch)


def latency_ratios(data: RetrievalSet, small_plan: Plan, questions: int) -> list[float]:
    """Return the median latencies of a plan divided by those measured now."""
    pool = CandidatePool(data, BiEncoder(small_plan.encoder), 1)
    options = [option for option in small_plan.sweep.cells if option.steps]
    rerankers = [option.steps[0].setup.reranker().warm_up() for option in options]
    seconds = [
        [
            pool.timed(row, reranker, option.depth)
            for option, reranker in zip(options, rerankers, strict=True)
        ]
        for row in range(questions)
    ]
    now = np.median(seconds, axis=0) * 1_000
    return [option.latency_ms[0] / ms for option, ms in zip(options, now.tolist(), strict=True)]


def test_latencies_are_reproducible_within_a_fifth() -> None:
    data = generated(24)
    small_plan = plan(data, 60_000, setups=[Setup(SleepingCrossEncoder())], show_progress=False)
    assert len(small_plan.sweep.cells) == 5
    # Up to three attempts, because other processes may use the machine.
    attempts = (latency_ratios(data, small_plan, questions=8) for _ in range(3))
    assert any(ratios == pytest.approx([1.0] * 4, rel=0.2) for ratios in attempts)


@pytest.mark.slow
def test_latencies_of_a_real_model_are_roughly_reproducible() -> None:
    """The tolerance is large because other processes may use the machine."""
    data = generated(30)
    small_plan = plan(data, 60_000, setups=[MINI], show_progress=False)
    assert all(0.4 < ratio < 2.5 for ratio in latency_ratios(data, small_plan, questions=20))


def test_depths_beyond_the_budget_are_not_measured() -> None:
    small_plan = plan(
        generated(24), 80, setups=[Setup(SleepingCrossEncoder())], show_progress=False
    )
    depths = [option.depth for option in small_plan.sweep.cells]
    assert depths[:3] == [0, 5, 10]
    assert depths[-1] < 30
    assert small_plan.recommended.latency_ms[1] <= 80


def test_a_short_time_limit_measures_fewer_questions() -> None:
    start = time.perf_counter()
    small_plan = plan(
        generated(30),
        60_000,
        setups=[Setup(SleepingCrossEncoder())],
        time_limit_s=1,
        show_progress=False,
    )
    assert time.perf_counter() - start < 12
    assert len(small_plan.sweep.questions) == 20
    assert [option.depth for option in small_plan.sweep.cells] == [0, 5, 10]


def test_an_option_has_the_settings_of_its_setup(small_plan: Plan) -> None:
    setup = small_plan.sweep.cells[1].steps[0].setup
    assert isinstance(setup.reranker(), Reranker)
    assert setup.settings()["max_length"] == 64
    assert np.isfinite([option.latency_ms for option in small_plan.sweep.cells]).all()
