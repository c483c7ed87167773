"""Evaluations: known values, and equal results for equal systems of all kinds."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from rich.console import Console

from rerank_plugins import BiEncoder, Cascade, Fusion, Reranker
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation import Evaluation, RetrievalSet, evaluate, from_documents
from rerank_plugins.evaluation.systems import nearest
from rerank_plugins.langchain import BiEncoderEmbeddings, CrossEncoderCompressor
from rerank_plugins.llama_index import BiEncoderEmbedding, CrossEncoderPostprocessor
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from tests.evaluation.sets import QRELS, QUERIES, TEXTS, small_set

RUN = {
    "q1": ["opera", "tea", "faust"],
    "q2": ["rain"],
    "q3": ["sun", "rain", "faust", "tea"],
    "q4": [],
}


def test_measures_of_a_known_run() -> None:
    result = evaluate(small_set(), {"known": RUN})["known"]
    # Gains are the grades (1, 0, 2), discounted by log2(rank + 1).
    ideal = 2 + 1 / math.log2(3)
    dcg = 1 + 2 / 2
    assert result.values["nDCG@10"] == pytest.approx((dcg / ideal, 1, 1 / math.log2(5), 0))
    assert list(result.values["RR@10"]) == [1, 1, 0.25, 0]
    assert list(result.values["R@10"]) == [1, 1, 1, 0]
    assert result.values["P@10"] == pytest.approx((0.2, 0.1, 0.1, 0))
    assert list(result.values["Success@1"]) == [1, 1, 0, 0]
    # Without unjudged passages, tea is first for q3.
    assert list(result.values["RR(judged_only=True)@10"]) == [1, 1, 1, 0]
    assert result.values["nDCG(judged_only=True)@10"][2] == 1
    assert result.mean("RR@10") == pytest.approx(2.25 / 4)


def test_unjudged_questions_and_other_ids_do_not_change_values() -> None:
    before = evaluate(small_set(), {"known": RUN})["known"].values
    renamed = from_documents(
        {f"x{name}": text for name, text in TEXTS.items()},
        {**QUERIES, "other": "without judgments"},
        {
            query: {f"x{name}": grade for name, grade in grades.items()}
            for query, grades in QRELS.items()
        },
    )
    run = {query: [f"x{name}" for name in names] for query, names in RUN.items()}
    assert evaluate(renamed, {"known": run})["known"].values == before


@pytest.fixture
def encoder() -> BiEncoder:
    return BiEncoder(FakeBiEncoder())


def test_equal_rankers_of_all_kinds_have_equal_results(encoder: BiEncoder) -> None:
    backend = FakeCrossEncoder()
    evaluation = evaluate(
        small_set(),
        {
            "plain": Reranker(backend),
            "langchain": CrossEncoderCompressor(model=backend),
            "llama_index": CrossEncoderPostprocessor(model=backend),
            "cascade": Cascade([(Reranker(backend), 4), Reranker(backend)]),
            "function": lambda query, texts: Reranker(backend).score([(query, t) for t in texts]),
        },
        first_stage=encoder,
        depth=5,
    )
    plain = evaluation["plain"]
    assert all(len(ranked) == 5 for ranked in plain.rankings)
    top = [ranked[:4] for ranked in plain.rankings]
    for system in evaluation.systems:
        assert system.values == plain.values
        assert [ranked[:4] for ranked in system.rankings] == top
    assert evaluation.compare().winner is None


def test_retrievers_of_both_frameworks_return_the_same_best_passage(encoder: BiEncoder) -> None:
    documents = [Document(id=name, page_content=text) for name, text in TEXTS.items()]
    embed = BiEncoderEmbeddings(model=encoder.model)
    store = InMemoryVectorStore.from_documents(documents, embed)
    nodes = [TextNode(id_=name, text=text) for name, text in TEXTS.items()]
    index = VectorStoreIndex(nodes, embed_model=BiEncoderEmbedding(model=encoder.model))
    evaluation = evaluate(
        from_documents(documents, QUERIES, QRELS),
        {
            "bi-encoder": encoder,
            "langchain": store.as_retriever(search_kwargs={"k": 3}),
            "llama_index": index.as_retriever(similarity_top_k=3),
            "function": lambda query: store.similarity_search(query, k=3),
        },
        depth=3,
    )
    best = [ranked[0] for ranked in evaluation["bi-encoder"].rankings]
    assert best == ["faust", "rain", "tea", "sea"]
    for system in evaluation.systems:  # each store orders the ties after the best differently
        assert [ranked[0] for ranked in system.rankings] == best
        assert {len(ranked) for ranked in system.rankings} == {3}


def test_every_adapter_fuses_the_same_retrieval_scores(encoder: BiEncoder) -> None:
    backend = FakeCrossEncoder()
    settings: dict[str, Any] = {"model": backend, "fusion": Fusion("weighted", 0.3)}
    evaluation = evaluate(
        small_set(),
        {
            "plain": Reranker(**settings),
            "langchain": CrossEncoderCompressor(**settings),
            "llama_index": CrossEncoderPostprocessor(**settings),
        },
        first_stage=encoder,
    )
    assert evaluation["langchain"].rankings == evaluation["plain"].rankings
    assert evaluation["llama_index"].rankings == evaluation["plain"].rankings


def test_documents_are_matched_by_id_metadata_and_text() -> None:
    def search(query: str) -> Sequence[Any]:
        return [
            TextNode(text="a chunk", metadata={"doc_id": "tea"}),
            Document("something else", id="rain"),
            "the sun is hot",
            "sea",
            Document("tea is a hot drink"),
        ]

    evaluation = evaluate(small_set(), {"search": search})
    assert evaluation["search"].rankings[0] == ("tea", "rain", "sun", "sea")


def test_time_and_memory_are_measured(encoder: BiEncoder) -> None:
    evaluation = evaluate(small_set(), {"fake": Reranker(FakeCrossEncoder())}, first_stage=encoder)
    result = evaluation["fake"]
    assert all(np.array(result.first_stage_seconds) < np.array(result.seconds))
    assert min(result.first_stage_seconds) > 0
    assert list(result.latency_ms.values()) == sorted(result.latency_ms.values())
    assert result.queries_per_second == pytest.approx(4 / sum(result.seconds))
    assert result.peak_memory_mib is None or result.peak_memory_mib > 10


def test_an_evaluation_is_saved_and_loaded(tmp_path: Path, encoder: BiEncoder) -> None:
    evaluation = evaluate(small_set(), {"a": encoder, "b": RUN}, measures=["nDCG@10"], depth=4)
    evaluation.save(tmp_path / "deep" / "evaluation.json")
    assert Evaluation.load(tmp_path / "deep" / "evaluation.json") == evaluation
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "evaluation.json"]
    frame = evaluation.to_pandas()
    assert frame.groupby("system")["nDCG@10"].mean()["b"] == pytest.approx(
        evaluation["b"].mean("nDCG@10")
    )
    values = json.loads(json.dumps(evaluation.to_dict()))
    values["systems"][0]["seconds"].pop()
    for text in ("{}", "nonsense", json.dumps(values), json.dumps(values | {"format": 9})):
        (tmp_path / "broken.json").write_text(text, "utf-8")
        with pytest.raises(InvalidInputError, match=r"broken\.json"):
            Evaluation.load(tmp_path / "broken.json")


def test_systems_that_do_not_differ_share_a_rank_in_the_table(encoder: BiEncoder) -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(evaluate(small_set(), {"[b]x": RUN, "y": encoder}))
    text = console.export_text()
    assert text.count("1-2") == 2
    assert "[b]x" in text
    assert "1 of 1 pairs" in text


def test_a_folder_is_evaluated(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    rows = [json.dumps({"_id": name, "text": text}) for name, text in TEXTS.items()]
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    rows = [json.dumps({"_id": name, "text": text}) for name, text in QUERIES.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(rows), "utf-8")
    lines = [
        f"{query}\t{name}\t{grade}"
        for query, grades in QRELS.items()
        for name, grade in grades.items()
    ]
    (tmp_path / "qrels" / "dev.tsv").write_text("\n".join(["head", *lines]), "utf-8")
    evaluation = evaluate(str(tmp_path), {"known": RUN}, split="dev")
    assert evaluation["known"].values == evaluate(small_set(), {"known": RUN})["known"].values


def invalid_arguments() -> list[Any]:
    valid = small_set()
    unjudged = from_documents(TEXTS, QUERIES)
    ranker = Reranker(FakeCrossEncoder())
    return [
        pytest.param(unjudged, {"a": RUN}, {}, InvalidInputError, "no judgments", id="labels"),
        pytest.param(valid, {}, {}, ConfigurationError, "systems is empty", id="none"),
        pytest.param(valid, {"a": 3}, {}, ConfigurationError, "a system is int", id="number"),
        pytest.param(
            valid, {"a": RUN}, {"measures": ["nope"]}, ConfigurationError, "nope", id="measure"
        ),
        pytest.param(valid, {"a": RUN}, {"depth": 0}, ConfigurationError, "depth is 0", id="depth"),
        pytest.param(
            valid,
            {"a": ranker},
            {"first_stage": ranker},
            ConfigurationError,
            "retriever",
            id="first",
        ),
        pytest.param(
            valid, {"a": {"q1": ["tea"]}}, {}, InvalidInputError, "no answer to question", id="run"
        ),
        pytest.param(
            valid, {"a": lambda query: ["lost"]}, {}, InvalidInputError, "'lost'", id="lost"
        ),
        pytest.param(
            valid,
            {"a": lambda query, texts: [1.0]},
            {"first_stage": RUN},
            InvalidInputError,
            "one score per text",
            id="scores",
        ),
    ]


@pytest.mark.parametrize(("data", "systems", "options", "error", "message"), invalid_arguments())
def test_invalid_arguments_are_rejected(
    data: RetrievalSet,
    systems: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        evaluate(data, systems, **options)


def test_ties_at_the_last_rank_keep_the_order_of_the_input() -> None:
    cosines = np.array([0.5, 0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    for depth in range(1, 7):
        assert nearest(cosines, depth).tolist() == [1, 0, 2, 3, 4][:depth]
