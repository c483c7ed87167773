"""Two stages behind LangChain's retriever interface."""

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
from rerank_plugins.langchain.compressor import CrossEncoderCompressor, LangChainRerankerFields


class RerankRetriever(LangChainRerankerFields, BaseRetriever):
    """Fetches ``k`` documents from a base retriever and returns the best ``top_n``.

    ``k`` and ``top_n`` can be set here and for one call:
    ``retriever.invoke(query, k=100, top_n=5)``. Other keyword arguments of a call, such as a
    filter, go to the base retriever. Documents are copies, as those of
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

    # Again, because pydantic lets the last base's configuration win.
    model_config = ConfigDict(extra="forbid")

    base_retriever: RetrieverLike = Field(description="The first stage.")
    k: int | None = Field(
        default=None,
        description=(
            "How many documents to fetch, at least 1; passed to the base retriever as k. None "
            "leaves the number to it (a vector store's default is 4: too few to rerank)."
        ),
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Check the settings now; the model is loaded at first use."""
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
        compressor, number = self._plan(k, top_n)
        fetched = self.base_retriever.invoke(
            query, {"callbacks": run_manager.get_child()}, **_with_k(kwargs, number)
        )
        return compressor.compress_documents(fetched[:number], query, run_manager.get_child())

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | Unset | None = UNSET,
        top_n: int | Unset | None = UNSET,
        **kwargs: Any,  # noqa: ANN401  (the base retriever's)
    ) -> list[Document]:
        compressor, number = self._plan(k, top_n)
        fetched = await self.base_retriever.ainvoke(
            query, {"callbacks": run_manager.get_child()}, **_with_k(kwargs, number)
        )
        return await compressor.acompress_documents(
            fetched[:number], query, run_manager.get_child()
        )

    def _plan(
        self, k: int | Unset | None, top_n: int | Unset | None
    ) -> tuple[CrossEncoderCompressor, int | None]:
        """Return the second stage and how many documents to fetch, for one call."""
        settings = self.settings()
        if not isinstance(top_n, Unset):
            settings["top_n"] = validate_top_n(top_n)
        number = self.k if isinstance(k, Unset) else _validate_k(k)
        return CrossEncoderCompressor(**settings), number


def _validate_k(k: int | None) -> int | None:
    return validate_count("k", k, "to leave the number of documents to the base retriever")


def _with_k(kwargs: dict[str, Any], k: int | None) -> dict[str, Any]:
    return kwargs if k is None else {**kwargs, "k": k}
