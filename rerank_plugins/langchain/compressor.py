"""LangChain document compressor: reranking of retrieved documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, ensure_config
from pydantic import ConfigDict, Field

from rerank_plugins._fields import RerankerFields
from rerank_plugins.config import UNSET, Unset
from rerank_plugins.core.inputs import (
    RESERVED_KEYS,
    complete_scores,
    ranking_metadata,
    visible_score,
    with_metadata,
)
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.langchain.cross_encoder import as_backend
from rerank_plugins.types import Ranking

RUN_NAME: Final = "CrossEncoderRerank"
"""Name of a rerank in a LangChain trace."""


class LangChainRerankerFields(RerankerFields):
    """Settings of the compressor and the retriever.

    ``model`` may also be a LangChain ``BaseCrossEncoder``.
    """

    # Strict: in pydantic's lax mode top_n=True would silently mean 1.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    metadata_keys: list[str] = Field(
        default=[],
        description="Metadata keys whose values the model reads before the text, one per line.",
    )
    retrieval_score_key: str = Field(
        default="score", description="Metadata key of the retrieval score, for a fusion."
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Validate the settings now; the model is loaded at first use."""
        super().model_post_init(context)
        self.reranker()

    def reranker(self) -> Reranker:
        """Return the reranker with these settings; see :class:`~rerank_plugins.Reranker`.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        reranker: Reranker = self._keep(Reranker, model=as_backend(self.model))
        return reranker

    def _compress(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None,
        top_n: int | Unset | None = UNSET,
    ) -> list[Document]:
        """Rerank documents as a run with callbacks."""
        if not (documents := list(documents)):
            return []
        run = CallbackManager.configure(_inherited(callbacks)).on_chain_start(
            None, {"query": query, "documents": documents}, name=RUN_NAME
        )
        try:
            ranking = self.reranker().rank(query, **self._inputs(documents), top_n=top_n)
            result = _ranked_copies(documents, ranking)
        except BaseException as error:
            run.on_chain_error(error)
            raise
        run.on_chain_end({"documents": result})
        return result

    async def _acompress(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None,
        top_n: int | Unset | None = UNSET,
    ) -> list[Document]:
        """Rerank documents without blocking; see :meth:`_compress`."""
        if not (documents := list(documents)):
            return []
        run = await AsyncCallbackManager.configure(_inherited(callbacks)).on_chain_start(
            None, {"query": query, "documents": documents}, name=RUN_NAME
        )
        try:
            ranking = await self.reranker().arank(query, **self._inputs(documents), top_n=top_n)
            result = _ranked_copies(documents, ranking)
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        await run.on_chain_end({"documents": result})
        return result

    def _inputs(self, documents: Sequence[str | Document]) -> dict[str, Any]:
        if isinstance(documents, str):
            return {"documents": documents}  # The core's error says that a list is needed.
        texts = [
            with_metadata(document.page_content, document.metadata, self.metadata_keys)
            if isinstance(document, Document)
            else document
            for document in documents
        ]
        scores = complete_scores(
            document.metadata.get(self.retrieval_score_key)
            if isinstance(document, Document)
            else None
            for document in documents
        )
        return {"documents": texts, "retrieval_scores": scores}


class CrossEncoderCompressor(LangChainRerankerFields, BaseDocumentCompressor):
    """A document compressor: returns the documents most relevant to the query, best first.

    It is a reranker for LangChain's ``ContextualCompressionRetriever`` and for LCEL. The returned
    documents are copies with a float in ``metadata["relevance_score"]``, which replaces an older
    one; id, type and other metadata are kept (nested values are shared with the original). The
    documents passed in are never changed.

    A rerank is a run named ``CrossEncoderRerank`` in a trace. ``model`` may also be a LangChain
    ``BaseCrossEncoder``: its scores are used unchanged, and ``score_threshold`` is on its scale.

    Example:
        >>> from langchain_core.documents import Document
        >>> from rerank_plugins.langchain import CrossEncoderCompressor
        >>> documents = [Document("It rains."), Document("Goethe wrote Faust.")]
        >>> best = CrossEncoderCompressor().compress_documents(documents, "Who wrote Faust?")[0]
        >>> best.page_content
        'Goethe wrote Faust.'
    """

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the best documents, best first.

        Args:
            documents: The candidates, in retrieval order (ties keep it).
            query: The query; not empty.
            callbacks: Handlers of the run; None inherits those of the current runnable.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        return self._compress(documents, query, callbacks)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents without blocking; see :meth:`compress_documents`."""
        return await self._acompress(documents, query, callbacks)

    def rerank(
        self, documents: Sequence[str | Document], query: str, *, top_n: int | None = -1
    ) -> list[dict[str, Any]]:
        """Rank texts or documents in the format of LangChain's ``CohereRerank.rerank``.

        Args:
            documents: The candidates.
            query: The query; not empty.
            top_n: How many to return; -1 is the compressor's own ``top_n``, None is all.

        Returns:
            ``{"index": position, "relevance_score": float}`` per document, best first.
        """
        if not documents:
            return []
        ranking = self.reranker().rank(
            query, **self._inputs(documents), top_n=UNSET if top_n == -1 else top_n
        )
        return [
            {"index": document.index, "relevance_score": visible_score(document)}
            for document in ranking
        ]

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable for LCEL that takes ``{"query": ..., "documents": ...}``."""

        def rerank(inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
            return self.compress_documents(
                inputs["documents"], inputs["query"], config.get("callbacks")
            )

        async def arerank(inputs: dict[str, Any], config: RunnableConfig) -> list[Document]:
            return await self.acompress_documents(
                inputs["documents"], inputs["query"], config.get("callbacks")
            )

        return RunnableLambda(rerank, afunc=arerank, name="rerank")


def _inherited(callbacks: Callbacks | None) -> Callbacks | None:
    return ensure_config().get("callbacks") if callbacks is None else callbacks


def _ranked_copies(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    """Return copies of the ranked documents, each with its score in its metadata.

    The metadata dictionary is new; its values are those of the original.
    """
    copies = []
    for ranked in ranking:
        original = documents[ranked.index]
        added = ranking_metadata(ranking, ranked, original.page_content)
        kept = {key: value for key, value in original.metadata.items() if key not in RESERVED_KEYS}
        metadata = kept | {"relevance_score": visible_score(ranked)} | added
        copies.append(original.model_copy(update={"metadata": metadata}))
    return copies
