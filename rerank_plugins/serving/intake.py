"""Requests: bounded in size and time; and callers who go away before the answer."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank_plugins.serving.failures import Refusal, failure
from rerank_plugins.serving.settings import ServerSettings

_CLOSE: Final = {"Connection": "close"}
MAX_HEADER_BYTES: Final = 32 * 1024
"""Names and values of all headers of a request together."""


class Intake:
    """ASGI middleware that reads the whole body, then answers for as long as somebody waits."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        """Wrap an application."""
        self._app = app
        self._most = settings.max_body_bytes
        self._seconds = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self._seconds)
        except asyncio.TimeoutError:  # not the builtin before Python 3.11
            message = f"the body did not arrive within {self._seconds:g} s."
            await failure(scope, Refusal(408, message, _CLOSE))(scope, receive, send)
        except Refusal as refusal:
            await failure(scope, refusal)(scope, receive, send)
        else:
            if body is not None:
                await _answer(self._app, scope, body, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client went away."""
        _check_headers(scope)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        self._check(int(announced) if announced.isdigit() else 0)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check(len(body))
            more = message.get("more_body", False)
        return bytes(body)

    def _check(self, size: int) -> None:
        if size > self._most:
            message = f"the body is larger than the {self._most} bytes that this server takes."
            raise Refusal(413, message, _CLOSE)


def _check_headers(scope: Scope) -> None:
    """Refuse a header bomb: the parser bounds what trickles in, not what comes in one piece."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        message = f"the headers are larger than the {MAX_HEADER_BYTES} bytes allowed."
        raise Refusal(431, message, _CLOSE)


async def _answer(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application on a body; cancel it when the client goes away."""
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    answer = asyncio.ensure_future(app(scope, replay, send))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()
    finally:
        for task in (answer, gone):
            task.cancel()
        # The request has left the queue when this returns.
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
