"""OpenAI's embeddings API.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.errors import ERRORS, OPENAI, JsonResponse
from rerank_plugins.serving.service import Body, DeadlineMs, Text, embed, validate_texts

router: Final = APIRouter(tags=["OpenAI"])


def _validate_input(value: Any) -> list[str]:  # noqa: ANN401  (unchecked yet)
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and isinstance(value[0], (int, list)):
        message = (
            "is token ids, which mean something else to this model; send strings "
            "(langchain-openai: check_embedding_ctx_length=False)"
        )
        raise ValueError(message)
    if not value:
        message = "must be a string, or a list of at least one"
        raise ValueError(message)
    return validate_texts(value)


_STRINGS: Final = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ]
}


class EmbeddingRequest(Body):
    """A request to ``/v1/embeddings``."""

    input: Annotated[list[str], PlainValidator(_validate_input), WithJsonSchema(_STRINGS)]
    model: Annotated[
        Text | None, Field(description="Any name is taken: the server has one embedding model.")
    ] = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[
        int | None, Field(ge=1, description="The model's own; other lengths are refused.")
    ] = None
    user: Text | None = None
    input_type: Annotated[
        Literal["query", "document"],
        Field(description="Whose prompt to put before the texts; an addition to the API."),
    ] = "document"


class Embedding(BaseModel):
    """One embedding: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """Embeddings in the order of the texts: unit vectors."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


@router.post(OPENAI, response_model=Embeddings, responses=ERRORS)
async def embeddings(
    body: EmbeddingRequest, request: Request, deadline_ms: DeadlineMs = None
) -> JsonResponse:
    """Embed texts."""
    computed = await embed(request, body.input, body.input_type, deadline_ms=deadline_ms)
    vectors = computed.values
    own = vectors.shape[1]
    if body.dimensions not in (None, own):
        message = f"dimensions is {body.dimensions}; the model's vectors have {own}. Leave it out."
        raise InvalidInputError(message)
    if body.encoding_format == "float":
        encoded = vectors.tolist()
    else:
        encoded = [base64.b64encode(one.astype("<f4").tobytes()).decode() for one in vectors]
    tokens = int(computed.tokens.sum())
    return JsonResponse(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": one}
                for index, one in enumerate(encoded)
            ],
            "model": request.app.state.models.encoder.engine.identity.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
