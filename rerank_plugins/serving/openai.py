"""Embeddings API of OpenAI.

Reference: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.errors import (
    ERROR_RESPONSES,
    OPENAI_PATH,
    DeadlineMs,
    JsonResponse,
    RequestBody,
    Text,
    validate_texts,
)
from rerank_plugins.serving.service import embed

router: Final = APIRouter(tags=["OpenAI"])


def _validate_input(value: Any) -> list[str]:  # noqa: ANN401  (any JSON)
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and isinstance(value[0], (int, list)):
        message = (
            "contains token ids, which are specific to OpenAI's models; send strings "
            "(langchain-openai: check_embedding_ctx_length=False)"
        )
        raise ValueError(message)
    if not value:
        message = "must be a string, or a list of at least one string"
        raise ValueError(message)
    return validate_texts(value)


_STRING: Final = {"type": "string"}
_INPUT_SCHEMA: Final = {"anyOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1}]}


class EmbeddingRequest(RequestBody):
    """A request to ``/v1/embeddings``."""

    input: Annotated[list[str], PlainValidator(_validate_input), WithJsonSchema(_INPUT_SCHEMA)]
    model: Annotated[
        Text | None, Field(description="Ignored: the server has one embedding model.")
    ] = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[
        int | None, Field(ge=1, description="Must be the dimension of the model.")
    ] = None
    user: Text | None = None
    input_type: Annotated[
        Literal["query", "document"],
        Field(description="Selects the prompt of the texts; not part of OpenAI's API."),
    ] = "document"


class Embedding(BaseModel):
    """One embedding: numbers, or the base64 encoding of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingResponse(BaseModel):
    """Unit vectors in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: dict[str, int]


@router.post(OPENAI_PATH, response_model=EmbeddingResponse, responses=ERROR_RESPONSES)
async def embeddings(
    body: EmbeddingRequest, request: Request, deadline_ms: DeadlineMs = None
) -> JsonResponse:
    """Embed texts."""
    output = await embed(request, body.input, body.input_type, deadline_ms=deadline_ms)
    vectors = output.values
    dimension = vectors.shape[1]
    if body.dimensions not in (None, dimension):
        message = (
            f"dimensions is {body.dimensions}; the model's vectors have {dimension}. "
            "Omit dimensions."
        )
        raise InvalidInputError(message)
    if body.encoding_format == "float":
        encoded = vectors.tolist()
    else:
        encoded = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    tokens = int(output.tokens.sum())
    return JsonResponse(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": embedding}
                for index, embedding in enumerate(encoded)
            ],
            "model": request.app.state.models.encoder.engine.identity.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
