"""Requests that a server must refuse, with the status of the response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx

_PATH: Final = "/v2/rerank"
_VALID: Final[dict[str, Any]] = {"query": "Who wrote Faust?", "documents": ["Goethe did."]}
_NO_HEADERS: Final[Mapping[str, str]] = {}


class MalformedRequest(NamedTuple):
    """A request that cannot be served, and the status of its response."""

    status: int
    body: bytes
    method: str = "POST"
    path: str = _PATH
    headers: Mapping[str, str] = _NO_HEADERS


def _with(**changes: Any) -> bytes:
    return json.dumps({**_VALID, **changes}).encode()


MALFORMED: Final = {
    "no JSON": MalformedRequest(422, b'{"query": '),
    "nested JSON": MalformedRequest(400, b"[" * 100_000),
    "no documents": MalformedRequest(422, b'{"query": "Who wrote Faust?"}'),
    "documents of a wrong type": MalformedRequest(422, _with(documents=[3, None])),
    "an empty query": MalformedRequest(422, _with(query="")),
    "too many documents": MalformedRequest(422, _with(documents=["Goethe."] * 1_001)),
    "top_n of 0": MalformedRequest(422, _with(top_n=0)),
    "a deadline that is no number": MalformedRequest(
        422, _with(), headers={"X-Deadline-Ms": "soon"}
    ),
    "an unknown path": MalformedRequest(404, _with(), path="/v9/rerank"),
    "a wrong method": MalformedRequest(405, b"", method="GET"),
    "headers that are too large": MalformedRequest(431, _with(), headers={"X-Much": "x" * 40_000}),
}


async def send_malformed(url: str, http: httpx.AsyncClient, name: str) -> str | None:
    """Send a malformed request; return what is wrong with the response, or None."""
    request = MALFORMED[name]
    response = await http.request(
        request.method,
        url + request.path,
        content=request.body,
        headers={"Content-Type": "application/json", **request.headers},
    )
    if response.status_code == request.status:
        return None
    got = f"status {response.status_code}, not {request.status}"
    return f"{name}: {got}: {response.text[:200]}"


async def hang_up(url: str) -> None:
    """Announce a body, send half of it, and close the connection."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"POST {_PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
