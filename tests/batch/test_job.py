"""Whole batches with the embedded model: nothing lost, nothing done twice, the same ranking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="the extra batch is not installed")

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_plugins import Reranker
from rerank_plugins.batch import BatchSettings, rerank_files
from rerank_plugins.batch.files import OutputFolder, find_sources
from rerank_plugins.batch.job import Unit, in_process, plan
from rerank_plugins.errors import ConfigurationError, InvalidInputError

WORDS = ["red", "green", "blue", "apple", "pear", "house", "river", "stone"]
# Scores in bfloat16, which "auto" is on some CPUs, depend a little on their batch.
SETTINGS = BatchSettings(max_documents=10, top_n=4, dtype="float32")


def row(number: int, documents: int) -> dict[str, Any]:
    texts = [f"{WORDS[(number + at) % 8]} {WORDS[at % 7]} {at}" for at in range(documents)]
    return {
        "query": f"{WORDS[number % 8]} {number}",
        "documents": [{"text": text, "id": f"d{at}"} for at, text in enumerate(texts)],
        "number": number,
    }


GOOD = [row(number, 33 if number == 2 else 3) for number in range(6)]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in rows)


def ranked(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "ranked").glob("*.parquet"))
    return [one for file in files for one in pq.ParquetFile(file).read().to_pylist()]


def dead(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "dead").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def assert_ranked_like_single_queries(
    results: list[dict[str, Any]], rows: list[dict[str, Any]], top_n: int
) -> None:
    reranker = Reranker(top_n=top_n, dtype="float32")
    assert len(results) == len(rows)
    for result, given in zip(results, rows, strict=True):
        texts = [one["text"] for one in given["documents"]]
        alone = reranker.rank(given["query"], texts)
        found = result["ranking"]
        assert result["query"] == given["query"]
        assert json.loads(result["fields"]) == {"number": given["number"]}
        assert [one["index"] for one in found] == [one.index for one in alone]
        assert [one["id"] for one in found] == [f"d{one.index}" for one in alone]
        assert [one["text"] for one in found] == [one.text for one in alone]
        for name in ("raw_score", "relevance_score"):
            expected = [getattr(one, name) for one in alone]
            assert [one[name] for one in found] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_batch_ranks_as_each_query_alone_and_merges_split_lists(
    tmp_path: Path, kind: str
) -> None:
    source = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        source.write_text(lines(GOOD), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(GOOD), source, row_group_size=2)
    units = list(plan(find_sources(source), SETTINGS.max_documents))
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
    letters = {(one["source"], one["row"]): one for one in dead(tmp_path / "out")}
    assert [letters["a.jsonl", at]["reason"] for at in (2, 3, 4, 5)] == [
        "query is int, not a string",
        "the line is not JSON",
        "the line is not UTF-8",
        "documents[25] is int, not a string",
    ]
    assert letters["a.jsonl", 2]["content"] == {"query": 1, "documents": ["a"]}
    assert letters["a.jsonl", 4]["content"] == "\\xff\n"
    told = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert (told["rows"], told["dead"]) == (10, 4)


def test_a_run_that_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(lines(GOOD), "utf-8")
    worked: list[str] = []

    def until(most: int) -> Any:
        def run(units: list[Unit], settings: BatchSettings, folder: OutputFolder) -> Iterator[int]:
            for unit in units[:most]:
                worked.append(unit.key)
                yield from in_process([unit], settings, folder)
            if len(units) > most:
                raise KeyboardInterrupt

        return run

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rerank_files(source, output, SETTINGS, run=until(2))
    summary = rerank_files(source, output, SETTINGS, run=until(99))
    assert len(worked) == len(set(worked)) == summary.units
    assert summary.resumed == 4
    assert_ranked_like_single_queries(ranked(output), GOOD, 4)
    again = rerank_files(source, output, SETTINGS, run=until(0))
    assert (again.resumed, again.ranked) == (again.units, 6)


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(lines(GOOD), "utf-8")
    rerank_files(source, output, SETTINGS)
    changed = [*GOOD[:5], row(9, 3)]
    source.write_text(lines(changed), "utf-8")
    summary = rerank_files(source, output, SETTINGS)
    assert summary.resumed == summary.units - 1
    assert_ranked_like_single_queries(ranked(output), changed, 4)


def test_results_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(lines(GOOD[:1]), "utf-8")
    rerank_files(source, output, SETTINGS)
    with pytest.raises(ConfigurationError, match="top_n=4, not 5"):
        rerank_files(source, output, replace(SETTINGS, top_n=5))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no folder of files named"):
        rerank_files(tmp_path, tmp_path / "out")
    broken = tmp_path / "x.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        rerank_files(broken, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="max_documents is 0"):
        BatchSettings(max_documents=0)
    with pytest.raises(ConfigurationError, match="top_n"):
        BatchSettings(top_n=0)
