"""The same candidates through both frameworks, and the proof that they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from rerank_plugins.cli._stages import Answer, Hit
from rerank_plugins.errors import RerankError
from rerank_plugins.evaluation.datasets import Passage

TOLERANCE: Final = 1e-6


def through_langchain(
    answer: Answer, passages: Sequence[Passage], settings: Mapping[str, Any]
) -> list[Hit]:
    """Rerank the candidates of an answer through LangChain's compressor."""
    from langchain_core.documents import Document  # noqa: PLC0415  (an optional dependency)

    from rerank_plugins.langchain import CrossEncoderCompressor  # noqa: PLC0415

    documents = [
        Document(page_content=passages[hit.position].content, metadata={"position": hit.position})
        for hit in answer.before
    ]
    reranked = CrossEncoderCompressor(**settings).compress_documents(documents, answer.question)
    return [Hit(one.metadata["position"], one.metadata["relevance_score"]) for one in reranked]


def through_llama_index(
    answer: Answer, passages: Sequence[Passage], settings: Mapping[str, Any]
) -> list[Hit]:
    """Rerank the candidates of an answer through LlamaIndex's postprocessor."""
    from llama_index.core.schema import NodeWithScore, TextNode  # noqa: PLC0415

    from rerank_plugins.llama_index import CrossEncoderPostprocessor  # noqa: PLC0415

    nodes = [
        NodeWithScore(
            node=TextNode(id_=str(hit.position), text=passages[hit.position].content),
            score=hit.score,
        )
        for hit in answer.before
    ]
    reranked = CrossEncoderPostprocessor(**settings).postprocess_nodes(
        nodes, query_str=answer.question
    )
    return [Hit(int(one.node.node_id), one.get_score()) for one in reranked]


def check_agreement(question: str, rankings: Mapping[str, Sequence[Hit]]) -> None:
    """Compare rankings of the same candidates, position by position and score by score.

    Args:
        question: Named in the error.
        rankings: Who ranked -> what came out.

    Raises:
        RerankError: If two of them differ.
    """
    for (name, hits), (other, others) in pairwise(rankings.items()):
        same = len(hits) == len(others) and all(
            one.position == two.position and math.isclose(one.score, two.score, abs_tol=TOLERANCE)
            for one, two in zip(hits, others, strict=True)
        )
        if not same:
            message = (
                f"{name} and {other} rank differently for {question!r}: "
                f"{list(hits[:5])} against {list(others[:5])} ... This is a defect; report it."
            )
            raise RerankError(message)
