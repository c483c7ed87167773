"""LangChain embeddings: the bi-encoder for the retrieval stage."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray
from pydantic import AliasChoices, ConfigDict, Field

from rerank_plugins._fields import BiEncoderFields
from rerank_plugins.config import MINI
from rerank_plugins.core.inputs import validate_documents


class BiEncoderEmbeddings(BiEncoderFields, Embeddings):
    """Embeds queries and documents, each with the model's own prompt, as unit vectors.

    Texts reach the model unchanged (newlines are kept). ``model_name`` is accepted for
    ``model``, as other LangChain embeddings call it.

    Example:
        >>> from rerank_plugins.langchain import BiEncoderEmbeddings
        >>> len(BiEncoderEmbeddings().embed_query("rain"))
        384
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", strict=True, protected_namespaces=()
    )

    model: Any = Field(
        default=MINI,
        validation_alias=AliasChoices("model", "model_name"),
        description='"mini" (embedded), a Hugging Face Hub name, a folder, or a backend object.',
    )
    show_progress: bool | None = Field(
        default=None,
        description="Show a progress bar; None shows it for long work in a terminal.",
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Validate the settings now; the model is loaded at first use."""
        super().model_post_init(context)
        self.bi_encoder()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents; one unit vector of Python floats per text, in order.

        With another :attr:`precision` they are whole numbers, for a store that takes such: one per
        dimension for int8 and uint8, one per eight dimensions for binary and ubinary.

        Raises:
            InvalidInputError: If a text is not a string.
            InferenceError: If the model fails.
        """
        validate_documents(texts)  # One string would be one vector.
        vectors = self.bi_encoder().encode_document(texts, show_progress=self.show_progress)
        return _floats(vectors)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query; a unit vector of Python floats. Errors: :meth:`embed_documents`."""
        return _floats(self.bi_encoder().encode_query([text]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop; see :meth:`embed_documents`."""
        validate_documents(texts)
        vectors = await self.bi_encoder().aencode_document(texts)
        return _floats(vectors)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query without blocking the event loop; see :meth:`embed_query`."""
        return _floats(await self.bi_encoder().aencode_query([text]))[0]


def _floats(vectors: NDArray[Any]) -> list[list[float]]:
    rows: list[list[float]] = vectors.astype(float).tolist()
    return rows
