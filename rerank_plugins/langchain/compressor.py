"""Reranking as a LangChain document compressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, ensure_config
from pydantic import ConfigDict, Field

from rerank_plugins._fields import RerankerFields
from rerank_plugins.config import UNSET
from rerank_plugins.core.inputs import OURS, known_scores, notes, shown, with_metadata
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.langchain._foreign import as_backend
from rerank_plugins.types import Ranking


def texts_of(documents: Sequence[str | Document], keys: Sequence[str]) -> Sequence[str]:
    """Return the text of each document, with some of its metadata."""
    if isinstance(documents, str):
        return documents  # Not its characters: the core says that a list is needed.
    return [
        with_metadata(one.page_content, one.metadata, keys) if isinstance(one, Document) else one
        for one in documents
    ]


def first_stage_of(documents: Sequence[str | Document], key: str) -> list[float] | None:
    """Return the documents' scores in the first stage, if all of them have one."""
    return known_scores(
        one.metadata.get(key) if isinstance(one, Document) else None for one in documents
    )


def ranked_copies(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    """Return copies of the ranked documents, each with its score in its metadata.

    The metadata dictionary is a new one, the values in it are those of the original.
    """
    copies = []
    for one in ranking:
        original = documents[one.index]
        told = {"relevance_score": shown(one), **notes(ranking, one, original.page_content)}
        kept = {key: value for key, value in original.metadata.items() if key not in OURS}
        copies.append(original.model_copy(update={"metadata": kept | told}))
    return copies


class LangChainRerankerFields(RerankerFields):
    """A reranker's settings, where ``model`` may also be a LangChain ``BaseCrossEncoder``."""

    # Strict: in pydantic's lax mode top_n=True would silently mean 1.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    metadata_keys: list[str] = Field(
        default=[], description="Metadata that the model reads before the text, a line each."
    )
    first_stage_key: str = Field(
        default="score", description="Metadata key of the first stage's score, for a fusion."
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Check the settings now; the model is loaded at first use."""
        super().model_post_init(context)
        self.reranker()

    def settings(self) -> dict[str, Any]:
        """Return what a reranker is made from, by field name."""
        return {name: getattr(self, name) for name in LangChainRerankerFields.model_fields}

    def reranker(self) -> Reranker:
        """Return a reranker with these settings; it shares the process's one model.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        settings = {name: getattr(self, name) for name in RerankerFields.model_fields}
        return Reranker(**settings | {"model": as_backend(self.model)})


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
