"""Sets from documents, nodes, frames and folders are the same set."""

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
    grades = [(query, name, grade) for query, one in QRELS.items() for name, grade in one.items()]
    return (
        pd.DataFrame(TEXTS.items(), columns=["_id", "text"]),
        pd.DataFrame(QUERIES.items(), columns=["_id", "text"]),
        pd.DataFrame(grades, columns=["query-id", "corpus-id", "score"]),
    )


def test_all_ways_to_give_it_make_the_same_set() -> None:
    plain = small_set()
    langchain = [Document(id=name, page_content=text) for name, text in TEXTS.items()]
    keyed = [Document(page_content=text, metadata={"_id": name}) for name, text in TEXTS.items()]
    nodes = [TextNode(id_=name, text=text) for name, text in TEXTS.items()]
    scored = [NodeWithScore(node=node, score=0.5) for node in nodes]
    for documents in (langchain, keyed, nodes, scored):
        assert from_documents(documents, QUERIES, QRELS) == plain
    assert from_frames(*frames()) == plain


def test_positions_are_ids_where_there_are_none() -> None:
    documents = [Document("a"), Document("b")]
    data = from_documents(documents, ["which?"], {"0": ["1"]})
    assert data.passages == (Passage("0", "", "a"), Passage("1", "", "b"))
    assert data.queries == {"0": "which?"}
    assert data.originals["1"] is documents[1]


def test_an_id_of_the_callers_choice() -> None:
    data = from_documents([TextNode(text="a", metadata={"url": "u"})], ["?"], id_key="url")
    assert data.passages[0].id == "u"
    with pytest.raises(InvalidInputError, match="document 0 has no metadata 'key'"):
        from_documents([Document("a")], ["?"], id_key="key")


def test_only_questions_with_judgments_are_kept_if_there_are_any() -> None:
    assert set(from_documents(TEXTS, QUERIES, {"q1": ["faust"]}).queries) == {"q1"}
    assert set(from_documents(TEXTS, QUERIES).queries) == set(QUERIES)


def test_a_title_that_is_missing_in_a_frame_is_none() -> None:
    corpus, queries, qrels = frames()
    corpus["title"] = ["Weather", None, float("nan"), "", "", ""]
    data = from_frames(corpus, queries, qrels)
    assert [one.title for one in data.passages] == ["Weather", "", "", "", "", ""]


def broken() -> list[Any]:
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


@pytest.mark.parametrize(("make", "message"), broken())
def test_what_is_wrong_is_named(make: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()
