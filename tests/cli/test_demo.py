"""The demo: its corpus, its two stages, its checks and its report."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.cli.app import app
from rerank_plugins.cli.demo import (
    Answer,
    Hit,
    TwoStages,
    check_agreement,
    examples,
    through_langchain,
    through_llama_index,
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


def answer(before: list[int], after: list[int], right: int = 0, name: str = "q") -> Answer:
    first, second = (
        tuple(Hit(position, 1 / (rank + 1)) for rank, position in enumerate(hits))
        for hits in (before, after)
    )
    return Answer(name, "a question?", right, first, second, 0.01, 0.2)


def test_the_corpus_ships_whole() -> None:
    data = read_beir(demo.DATA)
    ids = {passage.id for passage in data.passages}
    assert len(ids) == 2_067
    assert len({passage.title for passage in data.passages}) == 48
    assert len(data.queries) == len(data.qrels) == 300
    assert all(len(right) == 1 and set(right) <= ids for right in data.qrels.values())
    note = (demo.DATA / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in note
    assert "Rajpurkar" in note


def test_the_two_stages_find_and_order() -> None:
    stages = TwoStages(PASSAGES, BiEncoder(FakeBiEncoder()), Reranker(FakeCrossEncoder()), 3)
    steps: list[int] = []
    stages.build(steps.append)
    found = stages.answer("q", QUESTION, right=1)
    assert sum(steps) == len(PASSAGES)
    assert len(found.before) == len(found.after) == 3
    assert {hit.position for hit in found.before} == {hit.position for hit in found.after}
    assert [hit.score for hit in found.before] == sorted(
        (hit.score for hit in found.before), reverse=True
    )
    texts = [PASSAGES[hit.position].content for hit in found.before]
    expected = Reranker(FakeCrossEncoder()).rank(QUESTION, texts)
    assert [hit.position for hit in found.after] == [
        found.before[one.index].position for one in expected
    ]
    assert found.search_seconds > 0
    assert found.rerank_seconds > 0


def test_both_frameworks_rank_as_plain_python_does() -> None:
    reranker = FakeCrossEncoder()
    given = answer([3, 0, 2, 1], [], right=1)
    ranking = Reranker(reranker).rank(
        given.question, [PASSAGES[hit.position].content for hit in given.before]
    )
    expected = [Hit(given.before[one.index].position, one.relevance_score) for one in ranking]
    assert through_langchain(given, PASSAGES, {"model": reranker}) == expected
    assert through_llama_index(given, PASSAGES, {"model": reranker}) == expected


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


def test_examples_are_the_first_of_each_kind() -> None:
    kept = answer([0, 1], [0, 1], name="kept")
    lost = answer([1, 2], [2, 1], name="never found")
    raised = answer([1, 0], [0, 1], name="raised")
    lowered = answer([0, 1], [1, 0], name="lowered")
    chosen = examples([kept, lost, raised, lowered, raised])
    assert [one.id for one in chosen] == ["raised", "lowered", "kept"]
    assert (lost.rank_before, lost.rank_after) == (None, None)
    assert [one.id for one in examples([lost])] == ["never found"]


def tiny(folder: Path) -> Path:
    """Write a slice of the shipped corpus: eight questions, their passages and 20 others."""
    data = read_beir(demo.DATA)
    queries = dict(list(data.queries.items())[:8])
    wanted = {passage for query in queries for passage in data.qrels[query]}
    passages = [one for one in data.passages if one.id in wanted] + list(data.passages[:20])
    rows = {one.id: {"_id": one.id, "title": one.title, "text": one.text} for one in passages}
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows.values())), "utf-8")
    (folder / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": name, "text": text}) for name, text in queries.items()),
        "utf-8",
    )
    lines = [f"{query}\t{one}\t1" for query in queries for one in data.qrels[query]]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["header", *lines]), "utf-8")
    return folder


def test_the_demo_on_a_small_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DATA", tiny(tmp_path))
    result = CliRunner().invoke(app, ["demo", "--questions", "8", "--depth", "5"])
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "gave the same order and scores" in shown
    for name in ("nDCG@10", "MRR@10", "right one first", "median latency"):
        assert name in shown
    assert "Two stages against one: nDCG@10" in shown


def test_a_time_limit_is_kept_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DATA", tiny(tmp_path))
    arguments = ["demo", "--questions", "8", "--depth", "5", "--time-limit", "1e-9"]
    result = CliRunner().invoke(app, arguments)
    assert "Only 1 of 8 questions" in result.stdout


def test_a_disagreement_stops_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DATA", tiny(tmp_path))
    monkeypatch.setattr(demo, "through_langchain", lambda *_: [Hit(0, 0.5)])
    result = CliRunner().invoke(app, ["demo", "--questions", "1", "--depth", "5"])
    assert result.exit_code == 2
    assert "plain Python and LangChain rank differently" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_as_it_ships() -> None:
    result = CliRunner().invoke(app, ["demo", "--questions", "5", "--time-limit", "0"])
    assert result.exit_code == 0, result.output
    assert "5 questions, 2,067 passages, depth 50" in result.stdout
