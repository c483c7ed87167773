"""HTTP requests and responses that can be pickled, for calling an ASGI application directly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Scope

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class HttpRequest:
    """A complete HTTP request."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes


@dataclass
class HttpResponse:
    """A complete HTTP response; ``status`` is 0 before it starts."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""


async def call_app(app: ASGIApp, request: HttpRequest) -> HttpResponse:
    """Return the response of an application; cancellation cancels its work."""
    response = HttpResponse()
    unread = [request.body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        # A disconnect cancels this call instead.
        return await asyncio.Future[Message]()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status, response.headers = message["status"], list(message.get("headers", ()))
        else:
            response.body += message.get("body", b"")

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query,
        "headers": request.headers,
        "client": None,
        "server": None,
        "state": {},
    }
    await app(scope, receive, send)
    return response
