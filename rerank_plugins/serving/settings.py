"""Server settings and the bearer token.

The token is not a setting, so settings can be pickled and logged.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, Field, ValidationInfo, field_serializer

from rerank_plugins.config import (
    MINI,
    OnError,
    Priority,
    RerankerSettings,
    Settings,
    WhenFull,
    validate_count,
)
from rerank_plugins.engine.engine import MAX_QUEUE_TOKENS
from rerank_plugins.errors import ConfigurationError

TOKEN_VARIABLE: Final = "RERANK_PLUGINS_TOKEN"  # noqa: S105  (the variable's name)
"""Environment variable of the bearer token."""


def _validate_limit(value: Any, info: ValidationInfo) -> int | None:  # noqa: ANN401
    return validate_count(str(info.field_name), value)


Limit = Annotated[int, BeforeValidator(_validate_limit)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


class ServerSettings(Settings, RerankerSettings):
    """Models, ranking options and request limits of a server.

    Most are settings of the server's :class:`~rerank_plugins.Reranker`. Those of the model, except
    ``model``, ``backend`` and ``revision``, also apply to the embedding model.
    """

    # Each request has its own, or the server sets them: they are no settings of a server.
    top_n: ClassVar[int | None] = None  # type: ignore[misc]
    on_error: ClassVar[OnError] = "raise"  # type: ignore[misc]
    priority: ClassVar[Priority] = "interactive"  # type: ignore[misc]
    when_full: ClassVar[WhenFull] = "raise"  # type: ignore[misc]

    embedding_model: Any = Field(
        default=MINI, description="Bi-encoder of /v1/embeddings; None disables the endpoint."
    )
    max_documents: Limit = Field(
        default=1_000, description="Maximum documents, or texts to embed, per request."
    )
    max_characters: Limit = Field(
        default=2_000_000,
        description="Maximum characters per request, query and documents together.",
    )
    max_body_bytes: Limit = Field(default=8 * 2**20, description="Maximum bytes of a request body.")
    max_queue_tokens: Limit = Field(
        default=MAX_QUEUE_TOKENS,
        description="Maximum tokens in the queue; requests beyond it are answered 429.",
    )
    body_timeout_s: Seconds = Field(
        default=10.0,
        description=(
            "Timeout for the headers of a request, for its body, and for the client to read more "
            "of a response."
        ),
    )

    @field_serializer("model", "embedding_model", "activation")
    def _serialize_object(self, value: object) -> str | None:
        """Return the name of a model or calibrator; a model spec may hold a token."""
        return None if value is None else str(value)


def validate_token(token: str | None) -> str | None:
    """Return the bearer token if an HTTP header can carry it; an error does not show the token."""
    if token is None or (token and all("!" <= character <= "~" for character in token)):
        return token
    message = (
        "the bearer token is empty or contains a space, a line end or a character outside ASCII. "
        f"Use visible ASCII characters, or unset {TOKEN_VARIABLE} to serve without a token."
    )
    raise ConfigurationError(message)
