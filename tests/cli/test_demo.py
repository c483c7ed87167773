"""The demo: corpus, search, checks and report."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.cli.app import app
from rerank_plugins.cli.demo import (
    Hit,
    QuestionResult,
    TwoStageSearch,
    check_agreement,
    choose_examples,
    rerank_by_langchain,
    rerank_by_llama_index,
)
from rerank_plugins.errors import RerankError
from rerank_plugins.evaluation.datasets import Passage, read_beir
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder

demo = import_module("rerank_plugins.cli.demo")

PASSAGES = [
    Passage("p0", "Weather", "it rains in weimar"),
    Passage("p1", "Faust", "goethe wrote faust in weimar"),
    Passage("p2", "", "who wrote what nobody knows"),
    Passage("p3", "Soup", "water and salt"),
]
QUESTION = "who wrote faust"


def question_result(
    before: list[int], after: list[int], relevant: int = 0, name: str = "q"
) -> QuestionResult:
    first, second = (
        tuple(Hit(position, 1 / (rank + 1)) for rank, position in enumerate(positions))
        for positions in (before, after)
    )
    return QuestionResult(name, "a question?", relevant, first, second, 0.01, 0.2)


def test_the_shipped_corpus_is_complete() -> None:
    data = read_beir(demo.DATA)
    ids = {passage.id for passage in data.passages}
    assert len(ids) == 2_067
    assert len({passage.title for passage in data.passages}) == 48
    assert len(data.queries) == len(data.qrels) == 300
    assert all(len(grades) == 1 and set(grades) <= ids for grades in data.qrels.values())
    note = (demo.DATA / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in note
    assert "Rajpurkar" in note


def test_the_bi_encoder_retrieves_and_the_cross_encoder_ranks() -> None:
    search = TwoStageSearch(PASSAGES, BiEncoder(FakeBiEncoder()), Reranker(FakeCrossEncoder()), 3)
    result = search.ask("q", QUESTION, relevant=1)
    assert len(result.before) == len(result.after) == 3
    assert {hit.position for hit in result.before} == {hit.position for hit in result.after}
    assert [hit.score for hit in result.before] == sorted(
        (hit.score for hit in result.before), reverse=True
    )
    texts = [PASSAGES[hit.position].content for hit in result.before]
    expected = Reranker(FakeCrossEncoder()).rank(QUESTION, texts)
    assert [hit.position for hit in result.after] == [
        result.before[document.index].position for document in expected
    ]
    assert result.search_seconds > 0
    assert result.rerank_seconds > 0


def test_both_frameworks_rank_as_plain_python_does() -> None:
    model = FakeCrossEncoder()
    result = question_result([3, 0, 2, 1], [], relevant=1)
    ranking = Reranker(model).rank(
        result.question, [PASSAGES[hit.position].content for hit in result.before]
    )
    expected = [
        Hit(result.before[document.index].position, document.relevance_score)
        for document in ranking
    ]
    assert rerank_by_langchain(result, PASSAGES, {"model": model}) == expected
    assert rerank_by_llama_index(result, PASSAGES, {"model": model}) == expected


@pytest.mark.parametrize(
    "other",
    [
        [Hit(1, 0.9), Hit(0, 0.8)],
        [Hit(0, 0.9), Hit(1, 0.7)],
        [Hit(0, 0.9)],
    ],
)
def test_a_disagreement_is_an_error(other: list[Hit]) -> None:
    hits = [Hit(0, 0.9), Hit(1, 0.8)]
    check_agreement("q", {"one": hits, "two": list(hits)})
    with pytest.raises(RerankError, match="one and two rank differently"):
        check_agreement("q", {"one": hits, "two": other})


def test_examples_are_the_first_of_each_effect() -> None:
    kept = question_result([0, 1], [0, 1], name="kept")
    missed = question_result([1, 2], [2, 1], name="not retrieved")
    raised = question_result([1, 0], [0, 1], name="raised")
    lowered = question_result([0, 1], [1, 0], name="lowered")
    examples = choose_examples([kept, missed, raised, lowered, raised])
    assert [result.id for result in examples] == ["raised", "lowered", "kept"]
    assert (missed.rank_before, missed.rank_after) == (None, None)
    assert [result.id for result in choose_examples([missed])] == ["not retrieved"]


def small_corpus(folder: Path) -> Path:
    """Write a part of the shipped corpus: eight questions, their passages and 20 others."""
    data = read_beir(demo.DATA)
    queries = dict(list(data.queries.items())[:8])
    relevant = {name for query in queries for name in data.qrels[query]}
    passages = [passage for passage in data.passages if passage.id in relevant]
    rows = {
        passage.id: {"_id": passage.id, "title": passage.title, "text": passage.text}
        for passage in (*passages, *data.passages[:20])
    }
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows.values())), "utf-8")
    (folder / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": name, "text": text}) for name, text in queries.items()),
        "utf-8",
    )
    lines = [f"{query}\t{name}\t1" for query in queries for name in data.qrels[query]]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["header", *lines]), "utf-8")
    return folder


def test_the_demo_on_a_small_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DATA", small_corpus(tmp_path))
    result = CliRunner().invoke(app, ["demo", "--questions", "8", "--depth", "5"])
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "returned the same order and scores" in shown
    for name in ("nDCG@10", "MRR@10", "relevant passage first", "median latency"):
        assert name in shown
    assert "Two stages compared with the bi-encoder alone: nDCG@10" in shown


def test_a_time_limit_is_kept_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DATA", small_corpus(tmp_path))
    arguments = ["demo", "--questions", "8", "--depth", "5", "--time-limit", "1e-9"]
    result = CliRunner().invoke(app, arguments)
    assert "Only 1 of 8 questions" in result.stdout


def test_a_disagreement_stops_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DATA", small_corpus(tmp_path))
    monkeypatch.setattr(demo, "rerank_by_langchain", lambda *_: [Hit(0, 0.5)])
    result = CliRunner().invoke(app, ["demo", "--questions", "1", "--depth", "5"])
    assert result.exit_code == 2
    assert "plain Python and LangChain rank differently" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_with_its_defaults() -> None:
    result = CliRunner().invoke(app, ["demo", "--questions", "5", "--time-limit", "0"])
    assert result.exit_code == 0, result.output
    assert "5 questions, 2,067 passages, depth 50" in result.stdout
