"""The bearer token."""

from __future__ import annotations

import hmac
from typing import Final

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from rerank_plugins.serving.failures import Refusal, failure

OPEN: Final = frozenset(("/health", "/ready", "/docs", "/openapi.json"))
"""What needs no token: probes carry none, and the documentation holds no secret."""


class BearerAuth:
    """ASGI middleware that answers 401 before a byte of the body is read."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        """Wrap an application."""
        self._app = app
        self._expected = b"Bearer " + token.get_secret_value().encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass if it has the token, or needs none."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            # In constant time, so that the token cannot be guessed byte by byte.
            if not hmac.compare_digest(given, self._expected):
                message = "the bearer token is missing or wrong; send Authorization: Bearer TOKEN."
                refusal = Refusal(401, message, {"WWW-Authenticate": "Bearer"})
                await failure(scope, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)
