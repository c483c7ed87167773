"""Plans on real scores: their evidence, their decision, and the code that they print."""

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

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.cli.app import app
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation import Plan, RetrievalSet, Setup, evaluate, from_documents, plan
from rerank_plugins.evaluation.candidates import CandidatePool
from rerank_plugins.evaluation.setups import (
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
    """Return passages about numbered things, each asked for in other words."""
    colors = ["red", "blue", "green", "white", "black", "brown"]
    animals = ["cat", "dog", "horse", "bird", "fish", "snake", "mouse", "cow", "sheep", "goat"]
    texts = [
        f"The {colors[at % 6]} {animals[at // 6 % 10]} sleeps at home." for at in range(passages)
    ]
    asked = [
        f"where does the {animals[at // 6 % 10]} that is {colors[at % 6]} sleep"
        for at in range(questions)
    ]
    return from_documents(texts, asked, {str(at): [str(at)] for at in range(questions)})


@pytest.fixture(scope="module")
def made() -> Plan:
    missing = Setup("mini", backend="torch", dtype="nonsense")
    return plan(generated(24), 60_000, setups=[MINI, missing], show_progress=False)


def test_a_plan_holds_its_evidence(made: Plan) -> None:
    options = made.sweep.cells
    assert len(made.sweep.questions) == 24
    assert options[0].steps == ()
    depths = [step.depth for option in options for step in option.steps]
    assert depths == [5, 10, 20, 30]
    times = [option.latency_ms[0] for option in options]
    assert times == sorted(times)
    assert all(median <= p95 for median, p95 in (option.latency_ms for option in options))
    assert "dtype is 'nonsense'" in made.skipped["mini (torch, nonsense)"]
    assert made.recommended in options
    assert 0 <= made.decision.share <= 1


def test_qualities_are_those_of_the_rerankers_themselves(made: Plan) -> None:
    """The value of a depth equals what an evaluation of the same two stages gives."""
    data = generated(24)
    for option in (made.sweep.cells[0], made.sweep.cells[2]):
        depth = option.depth or 10
        system: Any = MINI.reranker() if option.steps else BiEncoder()
        found = evaluate(data, {"it": system}, depth=depth, measures=["nDCG@10"])
        assert option.interval("nDCG@10").mean == pytest.approx(found["it"].mean("nDCG@10"))


def test_it_is_shown_and_written(made: Plan, tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(made)
    text = console.export_text()
    assert "use this" in text
    assert "Not measured: mini (torch, nonsense)" in text
    assert str(made).count("<- recommended") <= 1
    made.save(tmp_path / "plan.json")
    values = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    assert values["recommended"] == made.recommended.label
    for name in ("plan.png", "plan.svg"):
        assert made.plot(tmp_path / name).stat().st_size > 5_000
    assert (tmp_path / "plan.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ConfigurationError, match=r"plan\.docx.*png"):
        made.plot(tmp_path / "plan.docx")


@pytest.mark.slow
def test_without_labels_it_is_a_proxy() -> None:
    data = generated(24)
    unlabeled = RetrievalSet(data.passages, data.queries, {})
    found = plan(unlabeled, 60_000, setups=[MINI], show_progress=False)
    assert found.decision.verdict == "agreement only"
    assert found.reference == str(MINI)
    assert found.sweep.cells[-1].interval("nDCG@10").mean == pytest.approx(
        1.0
    )  # it agrees with itself
    assert "this is a proxy" in found.summary


@pytest.mark.slow
def test_cascades_of_two_models_are_compared(tmp_path: Path) -> None:
    """A model under another name is another model; its cascade with itself changes no order."""
    shutil.copytree(cross_encoder_folder(), tmp_path / "other")
    other = Setup(str(tmp_path / "other"), backend="torch", dtype="float32", max_length=64)
    found = plan(generated(20), 60_000, setups=[MINI, other], show_progress=False)
    cascades = [option for option in found.sweep.cells if len(option.steps) == 2]
    assert cascades
    single = {
        option.depth: option.interval("nDCG@10").mean
        for option in found.sweep.cells
        if len(option.steps) == 1
    }
    for option in cascades:
        if option.steps[1].depth >= 10:  # the part that nDCG@10 sees
            assert option.interval("nDCG@10").mean == pytest.approx(single[option.depth])


BFLOAT16 = Setup("mini", backend="torch", dtype="bfloat16")
PIPELINES = [
    (),
    (RerankStep(MINI, 3),),
    (RerankStep(MINI, 4), RerankStep(BFLOAT16, 2)),
]


@pytest.mark.parametrize("steps", PIPELINES, ids=["bi-encoder", "cross-encoder", "cascade"])
@pytest.mark.parametrize("write", [langchain_code, llama_index_code])
def test_the_printed_code_runs_and_ranks(
    steps: tuple[RerankStep, ...], write: Callable[..., str]
) -> None:
    code = write("mini", steps, 2).replace("your question", "Who wrote Faust?")
    names: dict[str, Any] = {"texts": TEXTS}
    exec(compile(code, "pasted", "exec"), names)  # noqa: S102
    if write is langchain_code:
        found = [one.page_content for one in names["documents"]]
    else:
        found = [one.get_content() for one in names["nodes"]]
    assert found[0] == TEXTS[1]
    assert len(found) == 2
    assert all(len(line) <= 120 for line in code.splitlines())


def test_what_fits_this_machine_is_tried() -> None:
    tried = default_setups(["mini", "other"])
    assert len(tried) in (2 * len(ON_CPU), 4)
    assert {one.model for one in tried} == {"mini", "other"}


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
def test_what_is_wrong_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(generated(4), **options)


@pytest.mark.slow
def test_the_command_and_its_code(tmp_path: Path) -> None:
    data = generated(30)
    (tmp_path / "qrels").mkdir()
    rows = [json.dumps({"_id": one.id, "text": one.text}) for one in data.passages]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows), "utf-8")
    rows = [json.dumps({"_id": key, "text": text}) for key, text in data.queries.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(rows), "utf-8")
    lines = [f"{query}\t{one}\t1" for query, judged in data.qrels.items() for one in judged]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["head", *lines]), "utf-8")
    words = ["plan", str(tmp_path), "--budget-ms", "60000", "--plot", str(tmp_path / "a.svg")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.svg").is_file()
    for framework in ("LangChain", "LlamaIndex"):
        code = re.split(r"# \w+\n", done.stdout.split(f"# {framework}\n")[1])[0]
        exec(compile(code, framework, "exec"), {"texts": TEXTS})  # noqa: S102
    done = CliRunner().invoke(app, [*words, "--no-labels", "--json"])
    assert json.loads(done.stdout)["decision"]["verdict"] == "agreement only"


class Sleeping(FakeCrossEncoder):
    """Takes a known time for each batch, pair and token."""

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        time.sleep(0.01 + 0.004 * len(batch) + 1e-4 * sum(item.tokens for item in batch))
        return super().run(batch)


def measured_again(data: RetrievalSet, made: Plan, questions: int) -> list[float]:
    """Return the plan's median latencies as shares of those measured now."""
    pool = CandidatePool(data, BiEncoder(made.encoder), 1)
    options = [option for option in made.sweep.cells if option.steps]
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


def test_latencies_are_within_a_fifth_of_those_measured_later() -> None:
    data = generated(24)
    made = plan(data, 60_000, setups=[Setup(Sleeping())], show_progress=False)
    assert len(made.sweep.cells) == 5
    assert measured_again(data, made, questions=8) == pytest.approx([1.0] * 4, rel=0.2)


@pytest.mark.slow
def test_latencies_of_a_real_model_are_near_those_measured_later() -> None:
    """Generous, since other work may disturb the machine."""
    data = generated(30)
    made = plan(data, 60_000, setups=[MINI], show_progress=False)
    assert all(0.4 < ratio < 2.5 for ratio in measured_again(data, made, questions=20))


def test_depths_beyond_the_budget_are_left_out() -> None:
    made = plan(generated(24), 80, setups=[Setup(Sleeping())], show_progress=False)
    depths = [option.depth for option in made.sweep.cells]
    assert depths[:3] == [0, 5, 10]
    assert depths[-1] < 30
    assert made.recommended.latency_ms[1] <= 80


def test_a_short_time_limit_measures_fewer_questions() -> None:
    start = time.perf_counter()
    made = plan(
        generated(30), 60_000, setups=[Setup(Sleeping())], time_limit_s=1, show_progress=False
    )
    assert time.perf_counter() - start < 12
    assert len(made.sweep.questions) == 20
    assert [option.depth for option in made.sweep.cells] == [0, 5, 10]


def test_the_recommendation_names_its_settings(made: Plan) -> None:
    setup = made.sweep.cells[1].steps[0].setup
    assert isinstance(setup.reranker(), Reranker)
    assert setup.settings()["max_length"] == 64
    assert np.isfinite([option.latency_ms for option in made.sweep.cells]).all()
