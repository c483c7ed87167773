"""Retrieval sets from documents, nodes and frames."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation import from_documents, from_frames
from rerank_plugins.evaluation.datasets import Passage, as_retrieval_set
from tests.evaluation.sets import QRELS, QUERIES, TEXTS, small_set


def frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rows = [
        (query, name, grade) for query, grades in QRELS.items() for name, grade in grades.items()
    ]
    return (
        pd.DataFrame(TEXTS.items(), columns=["_id", "text"]),
        pd.DataFrame(QUERIES.items(), columns=["_id", "text"]),
        pd.DataFrame(rows, columns=["query-id", "corpus-id", "score"]),
    )


def test_all_inputs_result_in_the_same_set() -> None:
    plain = small_set()
    langchain = [Document(id=name, page_content=text) for name, text in TEXTS.items()]
    keyed = [Document(page_content=text, metadata={"_id": name}) for name, text in TEXTS.items()]
    nodes = [TextNode(id_=name, text=text) for name, text in TEXTS.items()]
    scored = [NodeWithScore(node=node, score=0.5) for node in nodes]
    for documents in (langchain, keyed, nodes, scored):
        assert from_documents(documents, QUERIES, QRELS) == plain
    assert from_frames(*frames()) == plain


def test_positions_are_the_ids_of_documents_without_ids() -> None:
    documents = [Document("a"), Document("b")]
    data = from_documents(documents, ["which?"], {"0": ["1"]})
    assert data.passages == (Passage("0", "", "a"), Passage("1", "", "b"))
    assert data.queries == {"0": "which?"}
    assert data.originals["1"] is documents[1]


def test_ids_can_be_read_from_metadata() -> None:
    data = from_documents([TextNode(text="a", metadata={"url": "u"})], ["?"], id_key="url")
    assert data.passages[0].id == "u"
    with pytest.raises(InvalidInputError, match="document 0 has no metadata 'key'"):
        from_documents([Document("a")], ["?"], id_key="key")


def test_with_judgments_only_judged_questions_are_kept() -> None:
    assert set(from_documents(TEXTS, QUERIES, {"q1": ["faust"]}).queries) == {"q1"}
    assert set(from_documents(TEXTS, QUERIES).queries) == set(QUERIES)


def test_a_title_missing_in_a_frame_is_empty() -> None:
    corpus, queries, qrels = frames()
    corpus["title"] = ["Weather", None, float("nan"), "", "", ""]
    data = from_frames(corpus, queries, qrels)
    assert [passage.title for passage in data.passages] == ["Weather", "", "", "", "", ""]


def invalid_inputs() -> list[Any]:
    corpus, queries, qrels = frames()
    return [
        pytest.param(lambda: from_documents([3], ["?"]), "a document is int", id="number"),
        pytest.param(
            lambda: from_documents([Document("a", id="x")] * 2, ["?"]),
            "'x' occurs twice",
            id="twice",
        ),
        pytest.param(
            lambda: from_documents(TEXTS, QUERIES, {"q1": ["lost"]}), "document 'lost'", id="lost"
        ),
        pytest.param(
            lambda: from_documents(TEXTS, QUERIES, {"no": ["tea"]}), "question 'no'", id="question"
        ),
        pytest.param(
            lambda: from_documents(TEXTS, QUERIES, {"q1": "tea"}), "is 'tea'; give", id="string"
        ),
        pytest.param(
            lambda: from_frames(corpus.rename(columns={"_id": "key"}), queries, qrels),
            "corpus has no column _id",
            id="column",
        ),
        pytest.param(lambda: as_retrieval_set(3), "data is int", id="set"),
        pytest.param(lambda: as_retrieval_set(from_documents([], [])), "0 passages", id="empty"),
    ]


@pytest.mark.parametrize(("make", "message"), invalid_inputs())
def test_invalid_input_is_rejected(make: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()
