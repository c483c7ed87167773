"""Batches with the embedded model: counts, resuming, and the same rankings as single queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="the extra batch is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_plugins import RemoteSpec, Reranker
from rerank_plugins.batch import BatchSettings, rerank_files
from rerank_plugins.batch.files import OutputFolder, find_sources
from rerank_plugins.batch.job import Unit, plan_units, run_in_process
from rerank_plugins.errors import ConfigurationError, InvalidInputError

WORDS = ["red", "green", "blue", "apple", "pear", "house", "river", "stone"]
# In bfloat16, which "auto" selects on some CPUs, scores depend slightly on the batch.
SETTINGS = BatchSettings(max_documents=10, top_n=4, dtype="float32")


def row(number: int, documents: int) -> dict[str, Any]:
    texts = [
        f"{WORDS[(number + index) % 8]} {WORDS[index % 7]} {index}" for index in range(documents)
    ]
    return {
        "query": f"{WORDS[number % 8]} {number}",
        "documents": [{"text": text, "id": f"d{index}"} for index, text in enumerate(texts)],
        "number": number,
    }


GOOD = [row(number, 33 if number == 2 else 3) for number in range(6)]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def ranked(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "ranked").glob("*.parquet"))
    return [record for file in files for record in pq.ParquetFile(file).read().to_pylist()]


def dead(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "dead").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def assert_ranked_like_single_queries(
    results: list[dict[str, Any]], rows: list[dict[str, Any]], top_n: int
) -> None:
    reranker = Reranker(top_n=top_n, dtype="float32")
    assert len(results) == len(rows)
    for result, source in zip(results, rows, strict=True):
        texts = [document["text"] for document in source["documents"]]
        ranking = reranker.rank(source["query"], texts)
        documents = result["ranking"]
        assert result["query"] == source["query"]
        assert json.loads(result["fields"]) == {"number": source["number"]}
        indices = [document.index for document in ranking]
        assert [document["index"] for document in documents] == indices
        assert [document["id"] for document in documents] == [f"d{index}" for index in indices]
        expected_texts = [document.text for document in ranking]
        assert [document["text"] for document in documents] == expected_texts
        for name in ("raw_score", "relevance_score"):
            expected = [getattr(document, name) for document in ranking]
            scores = [document[name] for document in documents]
            assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_a_batch_ranks_like_single_queries_and_merges_split_rows(
    tmp_path: Path, extension: str
) -> None:
    source = tmp_path / f"in.{extension}"
    if extension == "jsonl":
        source.write_text(lines(GOOD), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(GOOD), source, row_group_size=2)
    units = list(plan_units(find_sources(source), SETTINGS.max_documents))
    assert [unit.part for unit in units if unit.part] == [(0, 8), (8, 16), (16, 24), (24, 33)]
    assert max(unit.documents for unit in units) <= 10
    summary = rerank_files(source, tmp_path / "out", SETTINGS)
    assert (summary.rows, summary.ranked, summary.dead, summary.documents) == (6, 6, 0, 48)
    assert_ranked_like_single_queries(ranked(tmp_path / "out"), GOOD, 4)
    assert list((tmp_path / "out" / "parts").rglob("*.parquet")) == []


def test_bad_rows_are_dead_letters_and_the_counts_add_up(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    long_bad = {"query": "q", "documents": ["a"] * 25 + [1]}
    bad = [b'{"query": 1, "documents": ["a"]}\n', b"{\n", b"\xff\n", json.dumps(long_bad).encode()]
    (source / "a.jsonl").write_bytes(lines(GOOD[:2]).encode() + b"\n" + b"".join(bad))
    (source / "deep" / "b.ndjson").write_text(lines(GOOD[2:]), "utf-8")
    summary = rerank_files(source, tmp_path / "out", SETTINGS)
    assert (summary.rows, summary.ranked, summary.dead) == (10, 6, 4)
    assert_ranked_like_single_queries(ranked(tmp_path / "out"), GOOD, 4)
    letters = {(letter["source"], letter["row"]): letter for letter in dead(tmp_path / "out")}
    assert [letters["a.jsonl", number]["reason"] for number in (2, 3, 4, 5)] == [
        "query is int, not a string",
        "the line is not JSON",
        "the line is not UTF-8",
        "documents[25] is int, not a string",
    ]
    assert letters["a.jsonl", 2]["content"] == {"query": 1, "documents": ["a"]}
    assert letters["a.jsonl", 4]["content"] == "\\xff\n"
    stored = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert (stored["rows"], stored["dead"]) == (10, 4)


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(lines(GOOD), "utf-8")
    ranked_keys: list[str] = []

    def interrupt_after(count: int) -> Any:
        def run(units: list[Unit], settings: BatchSettings, folder: OutputFolder) -> Iterator[int]:
            for unit in units[:count]:
                ranked_keys.append(unit.key)
                yield from run_in_process([unit], settings, folder)
            if len(units) > count:
                raise KeyboardInterrupt

        return run

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rerank_files(source, output, SETTINGS, run=interrupt_after(2))
    summary = rerank_files(source, output, SETTINGS, run=interrupt_after(99))
    assert len(ranked_keys) == len(set(ranked_keys)) == summary.units
    assert summary.resumed == 4
    assert_ranked_like_single_queries(ranked(output), GOOD, 4)
    again = rerank_files(source, output, SETTINGS, run=interrupt_after(0))
    assert (again.resumed, again.ranked) == (again.units, 6)


def test_only_changed_rows_are_ranked_again(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(lines(GOOD), "utf-8")
    rerank_files(source, output, SETTINGS)
    changed = [*GOOD[:5], row(9, 3)]
    source.write_text(lines(changed), "utf-8")
    summary = rerank_files(source, output, SETTINGS)
    assert summary.resumed == summary.units - 1
    assert_ranked_like_single_queries(ranked(output), changed, 4)


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(lines(GOOD[:1]), "utf-8")
    rerank_files(source, output, SETTINGS)
    with pytest.raises(ConfigurationError, match="top_n=4, not 5"):
        rerank_files(source, output, SETTINGS.replace(top_n=5))


def test_unreadable_input_and_invalid_settings_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not a folder with files, named"):
        rerank_files(tmp_path, tmp_path / "out")
    broken = tmp_path / "x.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        rerank_files(broken, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="max_documents is 0"):
        BatchSettings(max_documents=0)
    with pytest.raises(ConfigurationError, match="top_n"):
        BatchSettings(top_n=0)


@pytest.mark.parametrize(
    "settings", [{"fusion": "rrf"}, {"dedup": 0.9}, {"deadline_ms": 5}, {"on_error": "passthrough"}]
)
def test_settings_that_a_batch_does_not_support_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="a batch supports only"):
        BatchSettings(**settings)


def test_stored_settings_contain_no_token(tmp_path: Path) -> None:
    spec = RemoteSpec("http://localhost:1", api="rerank-plugins", token="not-for-files")  # noqa: S106
    settings = BatchSettings(spec).model_dump()
    OutputFolder(tmp_path).open(settings)
    assert "not-for-files" not in (tmp_path / "settings.json").read_text("utf-8")
    OutputFolder(tmp_path).open(settings)
