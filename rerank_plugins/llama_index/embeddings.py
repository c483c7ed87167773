"""LlamaIndex embedding: the bi-encoder for the retrieval stage."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, model_validator
from numpy.typing import NDArray
from typing_extensions import Self

from rerank_plugins._fields import BiEncoderFields
from rerank_plugins.config import MINI
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.llama_index._component import ConfigComponent, model_name


class BiEncoderEmbedding(BiEncoderFields, ConfigComponent, BaseEmbedding):
    """Embeds queries and nodes as unit vectors, each with the model's own prompt.

    The settings are those of :class:`rerank_plugins.BiEncoder`; ``model_name`` is LlamaIndex's
    name for ``model`` and may be given instead. The model is loaded at first use and shared by
    all its users in the process.

    Example:
        >>> from rerank_plugins.llama_index import BiEncoderEmbedding
        >>> len(BiEncoderEmbedding().get_query_embedding("Who wrote Faust?"))
        384
    """

    model_config = ConfigDict(extra="forbid")

    embed_batch_size: int = Field(
        default=128,
        description="Texts per embedding call; the engine batches them by tokens.",
        gt=0,
        le=2048,
    )

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name used in serialization."""
        return "BiEncoderEmbedding"

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, data: dict[str, Any]) -> dict[str, Any]:
        model = data.get("model", data.get("model_name", MINI))
        name = model_name(model)
        if data.get("model_name", name) != name:
            message = (
                f"model is {name!r} and model_name is {data['model_name']!r}; "
                "they are two names of one setting. Give one."
            )
            raise ConfigurationError(message)
        return {**data, "model": model, "model_name": name}

    @model_validator(mode="after")
    def _validate_settings(self) -> Self:
        self.bi_encoder()
        return self

    def _get_query_embedding(self, query: str) -> list[float]:
        return _floats(self.bi_encoder().encode_query([query], show_progress=False))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _floats(await self.bi_encoder().aencode_query([query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _floats(self.bi_encoder().encode_document(texts, show_progress=False))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _floats(await self.bi_encoder().aencode_document(texts))


def _floats(vectors: NDArray[Any]) -> list[list[float]]:
    rows: list[list[float]] = vectors.astype(float).tolist()
    return rows
