"""Fake rerank server: strict about requests, scores by word overlap, and fails on demand."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable

from pydantic import ValidationError

from rerank_plugins.testing import overlap
from tests.backends.remote.schemas import PROBABILITIES, SCHEMAS, Request
from tests.helpers.loopback import Loopback, QuietHandler

TOKEN = "s3cret-T0ken/with+chars="  # noqa: S105  (the secret that must not leak)


def score(api: str, query: str, document: str) -> float:
    """Return the score of a pair: a probability if the API has no logits."""
    logit = overlap(query, document)
    return 1 / (1 + math.exp(-logit)) if api in PROBABILITIES else logit


class Response:
    """Response of the server.

    Attributes:
        status: HTTP status; 0 sends nothing.
        body: Body.
        headers: Headers in addition to the content type and length.
    """

    def __init__(self, status: int, body: bytes | str, **headers: str) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


Misbehavior = Callable[["Handler", Request], "Response | None"]
"""Called with each valid request; returns the response, or None for the correct one."""


class FakeServer(Loopback):
    """Server of one API.

    Attributes:
        api: Name of the API.
        requests: Valid requests, in order of arrival.
        max_concurrency: Largest number of concurrent requests.
        misbehave: Misbehavior for each of the next requests.
        always: Misbehavior for all other requests.
    """

    def __init__(self, api: str) -> None:
        super().__init__(Handler)
        self.api = api
        self.requests: list[Request] = []
        self.max_concurrency = 0
        self.misbehave: list[Misbehavior] = []
        self.always: Misbehavior = lambda _handler, _request: None
        self.running = 0
        self.lock = threading.Lock()
        self.start()


class Handler(QuietHandler):
    """Connection of a client."""

    server: FakeServer

    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.running += 1
            server.max_concurrency = max(server.max_concurrency, server.running)
        try:
            response = self._respond(body)
        finally:
            with server.lock:
                server.running -= 1
        if response.status:
            self.send(response)

    def send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in {"Content-Type": "application/json", **response.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    def _respond(self, body: bytes) -> Response:
        server = self.server
        path, schema = SCHEMAS[server.api]
        if self.path != path:
            return Response(404, json.dumps({"error": f"no {self.path} here"}))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Response(401, json.dumps({"message": "invalid api token"}))
        if len(body) > 2_000_000:
            return Response(413, json.dumps({"error": "too large", "error_type": "validation"}))
        try:
            request = schema.model_validate_json(body)
        except ValidationError as error:
            return Response(422, json.dumps({"error": str(error), "error_type": "validation"}))
        with server.lock:
            server.requests.append(request)
            misbehavior = server.misbehave.pop(0) if server.misbehave else server.always
        response = misbehavior(self, request)
        if response is not None:
            return response
        scores = [score(server.api, request.query, text) for text in request.sent()]
        return Response(200, json.dumps(request.answer(scores)))


def respond(status: int, body: bytes | str = "", **headers: str) -> Misbehavior:
    """Return a misbehavior: a fixed response."""
    return lambda _handler, _request: Response(status, body, **headers)


def slow(seconds: float) -> Misbehavior:
    """Return a misbehavior: the correct response after a delay."""

    def delay(_handler: Handler, _request: Request) -> None:
        time.sleep(seconds)

    return delay


def drop_connection(handler: Handler, _request: Request) -> Response:
    """Misbehave: close the connection in the middle of a response."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n[{"index": 0')
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.close()
    return Response(0, b"")
