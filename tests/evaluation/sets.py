"""A small retrieval set with known best rankings, for the tests of this folder."""

from __future__ import annotations

from rerank_plugins.evaluation import RetrievalSet, from_documents

TEXTS = {
    "rain": "rain falls from clouds",
    "tea": "tea is a hot drink",
    "faust": "goethe wrote the play faust",
    "opera": "gounod composed the opera faust",
    "sun": "the sun is hot",
    "sea": "the sea is salt water",
}
QUERIES = {
    "q1": "who wrote the play faust",
    "q2": "what falls from clouds",
    "q3": "which drink is hot",
    "q4": "is the sea salt water",
}
QRELS = {
    "q1": {"faust": 2, "opera": 1},
    "q2": {"rain": 1, "sun": 0},
    "q3": {"tea": 1},
    "q4": {"sea": 1},
}


def small_set() -> RetrievalSet:
    return from_documents(TEXTS, QUERIES, QRELS)
