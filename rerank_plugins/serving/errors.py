"""Error responses and the exception handlers that produce them.

Each API has its own JSON shape for errors, selected by the path of the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.types import Scope

from rerank_plugins.errors import (
    EngineClosedError,
    EngineOverloadedError,
    InvalidInputError,
    ModelLoadError,
    RerankError,
)
from rerank_plugins.serving.logging import get_record

TEI_PATH: Final = "/rerank"
OPENAI_PATH: Final = "/v1/embeddings"

_BACKEND_FAILED: Final = 424
_OVERLOADED: Final = 429
_INTERNAL: Final = 500
_UNAVAILABLE: Final = 503

_STATUSES: Final[dict[type[Exception], int]] = {
    InvalidInputError: 422,
    EngineOverloadedError: _OVERLOADED,
    EngineClosedError: _UNAVAILABLE,
    ModelLoadError: _UNAVAILABLE,
}
_TEI_TYPES: Final = {400: "Empty", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}
_OPENAI_TYPES: Final = {401: "authentication_error", 429: "rate_limit_error"}
_MAX_DETAILS: Final = 5

ERROR_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "The body is not JSON, or there is nothing to rank."},
    401: {"description": "The bearer token is missing or wrong."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "The body or its texts are too large."},
    422: {"description": "The request is invalid; the message explains why."},
    429: {"description": "The queue is full; retry after the seconds in Retry-After."},
    431: {"description": "The headers are too large."},
    503: {"description": "The model is not loaded."},
    504: {"description": "The deadline of X-Deadline-Ms passed."},
}
"""The errors of an API, for the OpenAPI schema."""


class APIError(Exception):
    """An error with the HTTP status and headers of its response.

    The message is sent to the client and contains no text of the request.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Create the error of a response."""
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class JsonResponse(Response):
    """JSON in ASCII: texts may contain lone surrogates, which UTF-8 cannot encode."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401  (any JSON)
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def error_response(scope: Scope, error: APIError) -> Response:
    """Return the response in the shape of the API that the request used."""
    message, status = str(error), error.status
    content: dict[str, Any]
    if scope["path"] == TEI_PATH:
        status = _BACKEND_FAILED if status == _INTERNAL else status  # as TEI does
        fallback = "Validation" if status < _INTERNAL else "Backend"
        content = {"error": message, "error_type": _TEI_TYPES.get(status, fallback)}
    elif scope["path"] == OPENAI_PATH:
        fallback = "invalid_request_error" if status < _INTERNAL else "server_error"
        kind = _OPENAI_TYPES.get(status, fallback)
        content = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    else:
        content = {"id": get_record(scope).request_id, "message": message}
    return JsonResponse(content, status, error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Make an application answer every expected exception with :func:`error_response`."""

    def handle(request: Request, error: Exception) -> Response:
        return error_response(request.scope, _api_error(request, error))

    for kind in (APIError, RerankError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)


def _api_error(request: Request, error: Exception) -> APIError:
    if isinstance(error, APIError):
        return error
    if isinstance(error, HTTPException):
        return APIError(error.status_code, str(error.detail), error.headers)
    if isinstance(error, RequestValidationError):
        return APIError(422, _validation_message(error))
    status = next((code for kind, code in _STATUSES.items() if isinstance(error, kind)), _INTERNAL)
    headers = {}
    if status == _OVERLOADED:
        headers = {"Retry-After": str(request.app.state.models.estimated_wait_s())}
    elif status == _UNAVAILABLE:
        headers = {"Retry-After": "1"}
    return APIError(status, str(error), headers)


def _validation_message(error: RequestValidationError) -> str:
    """Return what is invalid, by field, without repeating values of the request."""
    details = error.errors()
    lines = []
    for detail in details[:_MAX_DETAILS]:
        field = ".".join(map(str, detail["loc"][1:]))
        reason = detail["msg"].removeprefix("Value error, ")
        lines.append(f"{field}: {reason}" if field else reason)
    if len(details) > _MAX_DETAILS:
        lines.append(f"and {len(details) - _MAX_DETAILS} more")
    return "; ".join(lines)


STATUS_HEADER: Final = "X-Ranking-Status"
"""``complete``, or ``partial`` if the deadline passed before all documents were scored."""

_HOUR_MS: Final = 3_600_000


class RequestBody(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


def validate_text(value: Any, *, location: str = "") -> str:  # noqa: ANN401  (any JSON)
    """Return the value if it is a string."""
    if not isinstance(value, str):
        message = f"{location}must be a string, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004  (pydantic expects ValueError)
    return value


def validate_texts(value: Any) -> list[str]:  # noqa: ANN401  (any JSON)
    """Return the value if it is a list of strings; an error contains the invalid position."""
    if not isinstance(value, list):
        message = f"must be a list of strings, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004
    return [
        validate_text(text, location=f"element {position} ") for position, text in enumerate(value)
    ]


Text = Annotated[str, PlainValidator(validate_text), WithJsonSchema({"type": "string"})]
Texts = Annotated[
    list[str],
    PlainValidator(validate_texts),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
DeadlineMs = Annotated[
    float | None,
    Header(
        alias="X-Deadline-Ms",
        gt=0,
        le=_HOUR_MS,
        description="Milliseconds from the arrival of the request to the response. Documents "
        "scored by then are returned, with X-Ranking-Status: partial if some are missing; the "
        "status is 504 if none was scored.",
    ),
]
