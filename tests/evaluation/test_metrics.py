"""Retrieval sets and metrics."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.datasets import Passage, read_beir
from rerank_plugins.evaluation.metrics import Difference, paired_bootstrap, per_query

CORPUS = '{"_id": "p", "title": "T", "text": "a\u2028b"}\n{"_id": "o", "text": "c"}\n'
QUERIES = '{"_id": "q", "text": "why"}\n{"_id": "unjudged", "text": "what"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq\tp\t2\nq\to\t0\n"


def write(folder: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS) -> Path:
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    (folder / "queries.jsonl").write_text(queries, "utf-8")
    (folder / "qrels" / "test.tsv").write_text(qrels, "utf-8")
    return folder


def test_plain_and_compressed_files_are_read(tmp_path: Path) -> None:
    data = read_beir(write(tmp_path))
    assert data.passages == (Passage("p", "T", "a\u2028b"), Passage("o", "", "c"))
    assert [passage.content for passage in data.passages] == ["T\na\u2028b", "c"]
    assert data.queries == {"q": "why"}
    assert data.qrels == {"q": {"p": 2, "o": 0}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": '{"_id": "p"}'}, "corpus.jsonl, line 1: expected"),
        ({"corpus": "[1]"}, "corpus.jsonl, line 1: expected"),
        ({"queries": "oops"}, "queries.jsonl, line 1: expected"),
        ({"qrels": "header\nq p 1"}, "test.tsv: expected"),
        ({"qrels": "header\nq\tp\tgood"}, "test.tsv: expected"),
    ],
)
def test_an_invalid_file_is_named_in_the_error(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_beir(write(tmp_path, **files))


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_beir(tmp_path)


def test_metrics_of_known_rankings() -> None:
    qrels = {"second": {"relevant": 1}, "first": {"relevant": 1}, "missed": {"relevant": 1}}
    rankings = {
        "first": ["relevant", "a"],
        "missed": ["a", "b"],
        "second": ["a", "relevant"],
    }
    values = per_query(qrels, rankings, ["nDCG@10", "RR@10", "Success@1"])
    assert values["nDCG@10"].tolist() == pytest.approx([1, 0, 1 / math.log2(3)])
    assert values["RR@10"].tolist() == pytest.approx([1, 0, 0.5])
    assert values["Success@1"].tolist() == [1, 0, 0]


def test_a_long_ranking_keeps_its_order() -> None:
    documents = [f"{number:04}" for number in range(1_000)]
    values = per_query({"q": {"0009": 1}}, {"q": documents}, ["RR@10"])
    assert values["RR@10"].tolist() == pytest.approx([0.1])


def test_the_bootstrap_distinguishes_a_gain_from_noise() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(200)
    assert paired_bootstrap(first, first + rng.normal(0.1, 0.1, 200)).verdict == "better"
    assert paired_bootstrap(first, first - rng.normal(0.1, 0.1, 200)).verdict == "worse"
    assert paired_bootstrap(first, first + rng.normal(0, 0.1, 200)).verdict == "no clear difference"
    assert paired_bootstrap(first, first) == Difference(0, 0, 0)


def test_the_interval_has_the_theoretical_width() -> None:
    gains = np.random.default_rng(2).normal(0, 1, 400)
    difference = paired_bootstrap(np.zeros(400), gains)
    expected = 2 * 1.96 * gains.std() / math.sqrt(400)
    assert difference.high - difference.low == pytest.approx(expected, rel=0.05)
