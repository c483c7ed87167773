"""Requests that a server must refuse, and go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx

HANG_UP: Final = "a connection closed in the middle"
"""What :func:`hang_up` does."""

_PATH: Final = "/v2/rerank"
_GOOD: Final[dict[str, Any]] = {"query": "Who wrote Faust?", "documents": ["Goethe did."]}
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Broken(NamedTuple):
    """A request that cannot be served, and the status that says so."""

    status: int
    body: bytes
    method: str = "POST"
    path: str = _PATH
    headers: Mapping[str, str] = _NO_HEADERS


def _with(**changes: Any) -> bytes:  # noqa: ANN401  (any JSON)
    return json.dumps({**_GOOD, **changes}).encode()


BROKEN: Final = {
    "no JSON": Broken(422, b'{"query": '),
    "nested JSON": Broken(400, b"[" * 100_000),
    "no documents": Broken(422, b'{"query": "Who wrote Faust?"}'),
    "documents of a wrong type": Broken(422, _with(documents=[3, None])),
    "an empty query": Broken(422, _with(query="")),
    "too many documents": Broken(422, _with(documents=["Goethe."] * 1_001)),
    "top_n of 0": Broken(422, _with(top_n=0)),
    "a deadline that is no number": Broken(422, _with(), headers={"X-Deadline-Ms": "soon"}),
    "an unknown path": Broken(404, _with(), path="/v9/rerank"),
    "a wrong method": Broken(405, b"", method="GET"),
    "headers that are too large": Broken(431, _with(), headers={"X-Much": "x" * 40_000}),
}


async def send_broken(url: str, http: httpx.AsyncClient, name: str) -> str | None:
    """Send one of them; return what was wrong with the answer, None if nothing was."""
    one = BROKEN[name]
    answer = await http.request(
        one.method,
        url + one.path,
        content=one.body,
        headers={"Content-Type": "application/json", **one.headers},
    )
    if answer.status_code == one.status:
        return None
    return f"{name}: status {answer.status_code}, not {one.status}: {answer.text[:200]}"


async def hang_up(url: str) -> None:
    """Announce a body, send half of it, and close the connection."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"POST {_PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
