"""Every answer that is not a success, in the shape the caller's API has for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from rerank_plugins.errors import (
    EngineClosedError,
    EngineOverloadedError,
    InvalidInputError,
    ModelLoadError,
    RerankError,
)
from rerank_plugins.serving.logging import record_of

TEI: Final = "/rerank"
OPENAI: Final = "/v1/embeddings"

_STATUS: Final[dict[type[Exception], int]] = {
    InvalidInputError: 422,
    EngineOverloadedError: 429,
    EngineClosedError: 503,
    ModelLoadError: 503,
}
_OVERLOADED: Final = 429
_UNAVAILABLE: Final = 503
_SHOWN: Final = 5
_TEI_TYPES: Final = {400: "Empty", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}
_OPENAI_TYPES: Final = {401: "authentication_error", 429: "rate_limit_error"}
_SERVER_FAULT: Final = 500


class Refusal(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Say what to answer; the message holds no text of the caller's."""
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class JsonResponse(Response):
    """JSON in ASCII, because a text may hold lone surrogates, which UTF-8 cannot carry."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401  (any JSON)
        """Return the bytes to send."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def failure(scope: Scope, refusal: Refusal) -> Response:
    """Return the answer in the shape that clients of the path expect."""
    message, status = str(refusal), refusal.status
    content: dict[str, Any]
    if scope["path"] == TEI:
        status = 424 if status == _SERVER_FAULT else status  # as the original says it
        fallback = "Validation" if status < _SERVER_FAULT else "Backend"
        content = {"error": message, "error_type": _TEI_TYPES.get(status, fallback)}
    elif scope["path"] == OPENAI:
        fallback = "invalid_request_error" if status < _SERVER_FAULT else "server_error"
        kind = _OPENAI_TYPES.get(status, fallback)
        content = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    else:
        content = {"id": record_of(scope).request_id, "message": message}
    return JsonResponse(content, status, refusal.headers)


def install_handlers(app: FastAPI) -> None:
    """Make an application answer every expected error by :func:`failure`."""

    def handler(request: Request, error: Exception) -> Response:
        return failure(request.scope, _refusal(request, error))

    for kind in (Refusal, RerankError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handler)


def _refusal(request: Request, error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, str(error.detail), error.headers)
    if isinstance(error, RequestValidationError):
        return Refusal(422, _explained(error))
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return Refusal(status, str(error), _retry(request, status))


def _retry(request: Request, status: int) -> dict[str, str]:
    if status == _OVERLOADED:
        return {"Retry-After": str(request.app.state.models.seconds_of_work())}
    return {"Retry-After": "1"} if status == _UNAVAILABLE else {}


def _explained(error: RequestValidationError) -> str:
    """Say where the request is wrong, without repeating what it holds."""
    found = error.errors()
    lines = [
        ".".join(map(str, one["loc"][1:])) + ": " + one["msg"].removeprefix("Value error, ")
        for one in found[:_SHOWN]
    ]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more")
    return "; ".join(line.removeprefix(": ") for line in lines)


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "The body is not JSON, or there is nothing to do."},
    401: {"description": "The bearer token is missing or wrong."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "The body or its texts are too large."},
    422: {"description": "The request cannot be served as it is; the message says why."},
    429: {"description": "Overloaded; Retry-After says when to try again."},
    431: {"description": "The headers are too large."},
    503: {"description": "The model is not loaded."},
    504: {"description": "Not done within X-Deadline-Ms."},
}
