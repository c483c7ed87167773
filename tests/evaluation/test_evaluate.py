"""Evaluating: known values, all kinds of systems, one result whatever wraps them."""

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
    found = evaluate(small_set(), {"known": RUN})["known"]
    # Gains are the grades (1, 0, 2), discounted by log2(rank + 1).
    ideal = 2 + 1 / math.log2(3)
    dcg = 1 + 2 / 2
    assert found.values["nDCG@10"] == pytest.approx((dcg / ideal, 1, 1 / math.log2(5), 0))
    assert list(found.values["RR@10"]) == [1, 1, 0.25, 0]
    assert list(found.values["R@10"]) == [1, 1, 1, 0]
    assert found.values["P@10"] == pytest.approx((0.2, 0.1, 0.1, 0))
    assert list(found.values["Success@1"]) == [1, 1, 0, 0]
    # Without what nobody judged, tea moves up to the first place for q3.
    assert list(found.values["RR(judged_only=True)@10"]) == [1, 1, 1, 0]
    assert found.values["nDCG(judged_only=True)@10"][2] == 1
    assert found.mean("RR@10") == pytest.approx(2.25 / 4)


def test_adding_unjudged_questions_or_renaming_ids_changes_no_value() -> None:
    before = evaluate(small_set(), {"known": RUN})["known"].values
    renamed = from_documents(
        {f"x{name}": text for name, text in TEXTS.items()},
        {**QUERIES, "other": "never judged"},
        {query: {f"x{name}": grade for name, grade in one.items()} for query, one in QRELS.items()},
    )
    run = {query: [f"x{name}" for name in names] for query, names in RUN.items()}
    assert evaluate(renamed, {"known": run})["known"].values == before


@pytest.fixture
def encoder() -> BiEncoder:
    return BiEncoder(FakeBiEncoder())


def test_both_frameworks_and_plain_python_are_measured_alike(encoder: BiEncoder) -> None:
    backend = FakeCrossEncoder()
    found = evaluate(
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
    plain = found["plain"]
    assert all(len(ranked) == 5 for ranked in plain.rankings)
    for one in found.systems:
        assert one.values == plain.values
        assert [ranked[:4] for ranked in one.rankings] == [r[:4] for r in plain.rankings]
    assert found.compare().winner is None


def test_retrievers_of_both_frameworks_find_what_the_bi_encoder_finds(encoder: BiEncoder) -> None:
    documents = [Document(id=name, page_content=text) for name, text in TEXTS.items()]
    embed = BiEncoderEmbeddings(model=encoder._client._model)
    store = InMemoryVectorStore.from_documents(documents, embed)
    nodes = [TextNode(id_=name, text=text) for name, text in TEXTS.items()]
    index = VectorStoreIndex(nodes, embed_model=BiEncoderEmbedding(model=encoder._client._model))
    found = evaluate(
        from_documents(documents, QUERIES, QRELS),
        {
            "bi-encoder": encoder,
            "langchain": store.as_retriever(search_kwargs={"k": 3}),
            "llama_index": index.as_retriever(similarity_top_k=3),
            "function": lambda query: store.similarity_search(query, k=3),
        },
        depth=3,
    )
    best = [ranked[0] for ranked in found["bi-encoder"].rankings]
    assert best == ["faust", "rain", "tea", "sea"]
    for one in found.systems:  # behind it there are ties, which each store orders in its way
        assert [ranked[0] for ranked in one.rankings] == best
        assert {len(ranked) for ranked in one.rankings} == {3}


def test_fusion_sees_the_first_stage_through_every_adapter(encoder: BiEncoder) -> None:
    backend = FakeCrossEncoder()
    how: dict[str, Any] = {"model": backend, "fusion": Fusion("weighted", 0.3)}
    found = evaluate(
        small_set(),
        {
            "plain": Reranker(**how),
            "langchain": CrossEncoderCompressor(**how),
            "llama_index": CrossEncoderPostprocessor(**how),
        },
        first_stage=encoder,
    )
    assert found["langchain"].rankings == found["plain"].rankings
    assert found["llama_index"].rankings == found["plain"].rankings


def test_documents_are_matched_by_id_metadata_and_text() -> None:
    def search(query: str) -> Sequence[Any]:
        return [
            TextNode(text="a chunk", metadata={"doc_id": "tea"}),
            Document("something else", id="rain"),
            "the sun is hot",
            "sea",
            Document("tea is a hot drink"),
        ]

    found = evaluate(small_set(), {"search": search})
    assert found["search"].rankings[0] == ("tea", "rain", "sun", "sea")


def test_time_and_memory_come_from_the_run(encoder: BiEncoder) -> None:
    found = evaluate(small_set(), {"two": Reranker(FakeCrossEncoder())}, first_stage=encoder)
    one = found["two"]
    assert all(np.array(one.first_stage_seconds) < np.array(one.seconds))
    assert min(one.first_stage_seconds) > 0
    assert list(one.latency_ms.values()) == sorted(one.latency_ms.values())
    assert one.queries_per_second == pytest.approx(4 / sum(one.seconds))
    assert one.peak_memory_mib is None or one.peak_memory_mib > 10


def test_it_is_written_and_read_back(tmp_path: Path, encoder: BiEncoder) -> None:
    found = evaluate(small_set(), {"a": encoder, "b": RUN}, measures=["nDCG@10"], depth=4)
    found.save(tmp_path / "deep" / "found.json")
    assert Evaluation.load(tmp_path / "deep" / "found.json") == found
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "found.json"]
    frame = found.to_pandas()
    assert frame.groupby("system")["nDCG@10"].mean()["b"] == pytest.approx(
        found["b"].mean("nDCG@10")
    )
    values = json.loads(json.dumps(found.to_dict()))
    values["systems"][0]["seconds"].pop()
    for text in ("{}", "nonsense", json.dumps(values), json.dumps(values | {"format": 9})):
        (tmp_path / "broken.json").write_text(text, "utf-8")
        with pytest.raises(InvalidInputError, match=r"broken\.json"):
            Evaluation.load(tmp_path / "broken.json")


def test_the_table_ranks_nobody_without_evidence(encoder: BiEncoder) -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(evaluate(small_set(), {"[b]x": RUN, "y": encoder}))
    text = console.export_text()
    assert text.count("1-2") == 2
    assert "[b]x" in text
    assert "1 of 1 pairs" in text


def test_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    rows = [json.dumps({"_id": name, "text": text}) for name, text in TEXTS.items()]
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    rows = [json.dumps({"_id": name, "text": text}) for name, text in QUERIES.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(rows), "utf-8")
    lines = [f"{q}\t{d}\t{grade}" for q, one in QRELS.items() for d, grade in one.items()]
    (tmp_path / "qrels" / "dev.tsv").write_text("\n".join(["head", *lines]), "utf-8")
    found = evaluate(str(tmp_path), {"known": RUN}, split="dev")
    assert found["known"].values == evaluate(small_set(), {"known": RUN})["known"].values


def wrong() -> list[Any]:
    fine = small_set()
    unjudged = from_documents(TEXTS, QUERIES)
    ranker = Reranker(FakeCrossEncoder())
    return [
        pytest.param(unjudged, {"a": RUN}, {}, InvalidInputError, "no judgments", id="labels"),
        pytest.param(fine, {}, {}, ConfigurationError, "systems is empty", id="none"),
        pytest.param(fine, {"a": 3}, {}, ConfigurationError, "a system is int", id="number"),
        pytest.param(
            fine, {"a": RUN}, {"measures": ["nope"]}, ConfigurationError, "nope", id="measure"
        ),
        pytest.param(fine, {"a": RUN}, {"depth": 0}, ConfigurationError, "depth is 0", id="depth"),
        pytest.param(
            fine,
            {"a": ranker},
            {"first_stage": ranker},
            ConfigurationError,
            "retriever",
            id="first",
        ),
        pytest.param(
            fine, {"a": {"q1": ["tea"]}}, {}, InvalidInputError, "no answer to question", id="run"
        ),
        pytest.param(
            fine, {"a": lambda query: ["lost"]}, {}, InvalidInputError, "'lost'", id="lost"
        ),
        pytest.param(
            fine,
            {"a": lambda query, texts: [1.0]},
            {"first_stage": RUN},
            InvalidInputError,
            "one score per text",
            id="scores",
        ),
    ]


@pytest.mark.parametrize(("data", "systems", "options", "error", "message"), wrong())
def test_what_is_wrong_is_named(
    data: RetrievalSet,
    systems: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        evaluate(data, systems, **options)


def test_ties_at_the_last_place_keep_the_inputs_order() -> None:
    cosines = np.array([0.5, 0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    for depth in range(1, 7):
        assert nearest(cosines, depth).tolist() == [1, 0, 2, 3, 4][:depth]
