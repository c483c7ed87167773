"""One HTTP request through an ASGI application, without a socket: both can be pickled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Scope

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Call:
    """A request whose body has arrived."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes


@dataclass
class Answer:
    """The whole answer; ``status`` is 0 until it begins."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""


async def call_app(app: ASGIApp, call: Call) -> Answer:
    """Return an application's answer; cancelling this cancels its work."""
    answer = Answer()
    unread = [call.body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        # The caller is here as long as this call is not cancelled.
        return await asyncio.Future[Message]()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message.get("headers", ()))
        else:
            answer.body += message.get("body", b"")

    await app(_scope(call), receive, send)
    return answer


def _scope(call: Call) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "root_path": "",
        "query_string": call.query,
        "headers": call.headers,
        "client": None,
        "server": None,
        "state": {},
    }
