"""Reranking as a LangChain document compressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, ensure_config

from rerank_plugins.core.config import UNSET
from rerank_plugins.core.metadata import shown
from rerank_plugins.langchain._documents import first_stage_of, ranked_copies, texts_of
from rerank_plugins.langchain._fields import LangChainRerankerFields

RUN_NAME: Final = "CrossEncoderRerank"


class CrossEncoderCompressor(LangChainRerankerFields, BaseDocumentCompressor):
    """Puts the documents most relevant to the query first and keeps the best ``top_n``.

    Returned documents are copies with a float in ``metadata["relevance_score"]``, an older
    one is replaced; id, type and other metadata are kept (nested values are shared with the
    original). The documents passed in are never changed.

    In a trace a rerank is a run named ``CrossEncoderRerank``. ``model`` may also be a LangChain
    ``BaseCrossEncoder``: its scores are used as they are, ``score_threshold`` is in its unit.

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
            documents: The candidates, in first-stage order (ties keep it).
            query: The query; not empty.
            callbacks: Told of the run; None is those of the runnable being run, if any.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        if not (documents := list(documents)):
            return []
        run = CallbackManager.configure(_inherited(callbacks)).on_chain_start(
            None, {"query": query, "documents": documents}, name=RUN_NAME
        )
        try:
            ranking = self.reranker().rank(query, **self._asked(documents))
            result = ranked_copies(documents, ranking)
        except BaseException as error:
            run.on_chain_error(error)
            raise
        run.on_chain_end({"documents": result})
        return result

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Do the same without blocking the event loop; see :meth:`compress_documents`."""
        if not (documents := list(documents)):
            return []
        run = await AsyncCallbackManager.configure(_inherited(callbacks)).on_chain_start(
            None, {"query": query, "documents": documents}, name=RUN_NAME
        )
        try:
            ranking = await self.reranker().arank(query, **self._asked(documents))
            result = ranked_copies(documents, ranking)
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        await run.on_chain_end({"documents": result})
        return result

    def rerank(
        self, documents: Sequence[str | Document], query: str, *, top_n: int | None = -1
    ) -> list[dict[str, Any]]:
        """Rank texts or documents in the shape of LangChain's ``CohereRerank.rerank``.

        Args:
            documents: The candidates.
            query: The query; not empty.
            top_n: How many; -1 is the compressor's own ``top_n``, None is all.

        Returns:
            ``{"index": position, "relevance_score": float}`` for each, best first.
        """
        if not documents:
            return []
        own = top_n == -1
        asked = self._asked(documents)
        ranking = self.reranker().rank(query, **asked, top_n=UNSET if own else top_n)
        return [{"index": one.index, "relevance_score": shown(one)} for one in ranking]

    def _asked(self, documents: Sequence[str | Document]) -> dict[str, Any]:
        return {
            "documents": texts_of(documents, self.metadata_keys),
            "first_stage": first_stage_of(documents, self.first_stage_key),
        }

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
