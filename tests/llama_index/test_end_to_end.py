"""End-to-end retrieval and reranking of real documents with the embedded models."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode

from rerank_plugins import Reranker
from rerank_plugins.llama_index import BiEncoderEmbedding, CrossEncoderPostprocessor

PASSAGES = {
    "Faust": "Faust is a tragic play in two parts by Johann Wolfgang von Goethe, who worked on it "
    "for some sixty years. The second part appeared in 1832, after his death.",
    "Werther": "The Sorrows of Young Werther made Goethe famous in 1774, at the age of 24.",
    "Marlowe": "Doctor Faustus, a tragedy of about 1592, brought the German legend to the "
    "English stage. Christopher Marlowe is its author.",
    "Gounod": "The opera Faust by Charles Gounod was first performed in Paris in 1859.",
    "Weimar": "Weimar, a city in Thuringia, was the home of Goethe and Schiller.",
    "Everest": "Mount Everest, on the border of Nepal and China, rises 8,849 meters above the sea.",
    "K2": "K2, the second-highest mountain on Earth, was first climbed by an Italian team in 1954.",
    "Hillary": "Edmund Hillary and Tenzing Norgay were the first to reach the summit of Everest, "
    "on 29 May 1953.",
    "Insulin": "Insulin was isolated in Toronto in 1921 by Frederick Banting and Charles Best.",
    "Penicillin": "Alexander Fleming noticed in 1928 that a mold killed the bacteria in his dish: "
    "the beginning of penicillin.",
    "Diabetes": "People with type 1 diabetes cannot make insulin and have to inject it.",
    "Rain": "Rain forms when droplets in a cloud grow too heavy for the air to carry.",
}
QUESTIONS = {
    "Who wrote the play Faust in two parts?": "Faust",
    "Who wrote Doctor Faustus?": "Marlowe",
    "Who were the first people on top of Mount Everest?": "Hillary",
    "Who discovered penicillin?": "Penicillin",
    "Where was insulin isolated?": "Insulin",
    "How does rain form?": "Rain",
}


@pytest.fixture(scope="module", params=[False, True], ids=["sync", "async"])
def index(request: pytest.FixtureRequest) -> VectorStoreIndex:
    documents = [Document(text=text, doc_id=name) for name, text in PASSAGES.items()]
    return VectorStoreIndex.from_documents(
        documents,
        embed_model=BiEncoderEmbedding(),
        transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0)],
        use_async=request.param,
    )


@pytest.mark.parametrize(("question", "answer"), QUESTIONS.items())
def test_two_stages_rank_the_answer_first(
    index: VectorStoreIndex, question: str, answer: str
) -> None:
    retrieved = index.as_retriever(similarity_top_k=6).retrieve(question)
    reranker = CrossEncoderPostprocessor(keep_retrieval_score=True)
    out = reranker.postprocess_nodes(retrieved, query_str=question)
    assert out[0].node.ref_doc_id == answer
    assert all(0.0 < (node.score or 0.0) < 1.0 for node in out)

    texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in retrieved]
    ranking = Reranker().rank(question, texts)
    assert [node.node_id for node in out] == [retrieved[node.index].node_id for node in ranking]
    assert [node.score for node in out] == pytest.approx([node.relevance_score for node in ranking])


def test_async_equals_sync(index: VectorStoreIndex) -> None:
    question = "Who wrote Doctor Faustus?"
    retriever = index.as_retriever(similarity_top_k=6)
    reranker = CrossEncoderPostprocessor(top_n=3)

    async def run_async() -> list[tuple[str, float | None]]:
        retrieved = await retriever.aretrieve(question)
        out = await reranker.apostprocess_nodes(retrieved, query_str=question)
        return [(node.node_id, node.score) for node in out]

    out = reranker.postprocess_nodes(retriever.retrieve(question), query_str=question)
    assert asyncio.run(run_async()) == [(node.node_id, node.score) for node in out]
    assert len(out) == 3
