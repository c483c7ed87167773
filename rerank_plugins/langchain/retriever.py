"""LangChain retriever: two-stage retrieval behind one retriever interface."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from pydantic import ConfigDict, Field

from rerank_plugins.config import UNSET, Unset, validate_count, validate_top_n
from rerank_plugins.langchain.compressor import LangChainRerankerFields


class RerankRetriever(LangChainRerankerFields, BaseRetriever):
    """A retriever with a reranker: fetches ``k`` documents and returns the best ``top_n``.

    ``k`` and ``top_n`` can be set here and per call:
    ``retriever.invoke(query, k=100, top_n=5)``. Other keyword arguments of a call, such as a
    filter, go to the base retriever. Documents are copies, like those of
    :class:`~rerank_plugins.langchain.CrossEncoderCompressor`. In a trace, both stages are
    children of this retriever's run.

    Example:
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from rerank_plugins.langchain import BiEncoderEmbeddings, RerankRetriever
        >>> store = InMemoryVectorStore(BiEncoderEmbeddings())
        >>> _ = store.add_texts(["It rains.", "Goethe wrote Faust.", "Faust is a play."])
        >>> retriever = RerankRetriever(base_retriever=store.as_retriever(), k=50, top_n=1)
        >>> retriever.invoke("Who wrote Faust?")[0].page_content
        'Goethe wrote Faust.'
    """

    # Repeated, because in pydantic the configuration of the last base class wins.
    model_config = ConfigDict(extra="forbid")

    base_retriever: RetrieverLike = Field(description="The retriever of the candidates.")
    k: int | None = Field(
        default=None,
        description=(
            "How many documents to fetch, at least 1; passed to the base retriever as k. None "
            "leaves the number to it (a vector store's default is 4: too few to rerank)."
        ),
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Validate the settings now; the model is loaded at first use."""
        super().model_post_init(context)
        _validate_k(self.k)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | Unset | None = UNSET,
        top_n: int | Unset | None = UNSET,
        **kwargs: Any,  # noqa: ANN401  (the base retriever's)
    ) -> list[Document]:
        k, top_n = self._limits(k, top_n)
        documents = self.base_retriever.invoke(
            query, {"callbacks": run_manager.get_child()}, **_with_k(kwargs, k)
        )
        return self._compress(documents[:k], query, run_manager.get_child(), top_n)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | Unset | None = UNSET,
        top_n: int | Unset | None = UNSET,
        **kwargs: Any,  # noqa: ANN401  (the base retriever's)
    ) -> list[Document]:
        k, top_n = self._limits(k, top_n)
        documents = await self.base_retriever.ainvoke(
            query, {"callbacks": run_manager.get_child()}, **_with_k(kwargs, k)
        )
        return await self._acompress(documents[:k], query, run_manager.get_child(), top_n)

    def _limits(
        self, k: int | Unset | None, top_n: int | Unset | None
    ) -> tuple[int | None, int | Unset | None]:
        """Return the validated ``k`` and ``top_n`` of one call, before anything is fetched."""
        return (
            self.k if isinstance(k, Unset) else _validate_k(k),
            top_n if isinstance(top_n, Unset) else validate_top_n(top_n),
        )


def _validate_k(k: int | None) -> int | None:
    return validate_count("k", k, "to leave the number of documents to the base retriever")


def _with_k(kwargs: dict[str, Any], k: int | None) -> dict[str, Any]:
    return kwargs if k is None else {**kwargs, "k": k}
