"""A strict server on the loopback that scores by word overlap and misbehaves on demand."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable

from pydantic import ValidationError

from rerank_plugins.testing import overlap
from tests.backends.remote.schemas import PROBABILITIES, SCHEMAS, Request
from tests.helpers.loopback import Loopback, Quiet

TOKEN = "s3cret-T0ken/with+chars="  # noqa: S105  (the secret that must not leak)


def score(api: str, query: str, document: str) -> float:
    """Return what the server gives for a pair: a probability where the API has no logits."""
    logit = overlap(query, document)
    return 1 / (1 + math.exp(-logit)) if api in PROBABILITIES else logit


class Response:
    """What to send instead of scores.

    Attributes:
        status: HTTP status.
        body: The body.
        headers: Headers besides the usual ones.
    """

    def __init__(self, status: int, body: bytes | str, **headers: str) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


Misbehavior = Callable[["Handler", Request], "Response | None"]
"""Called with each valid request; None answers as usual, after whatever it did."""


class FakeServer(Loopback):
    """The server.

    Attributes:
        api: What it speaks.
        requests: Valid requests that came, in order.
        most: Requests that were in it at once, at most.
        misbehave: What to do with the next requests, one each; then all is well again.
        always: What to do with every other request.
    """

    def __init__(self, api: str) -> None:
        super().__init__(Handler)
        self.api = api
        self.requests: list[Request] = []
        self.max_concurrency = 0
        self.misbehave: list[Misbehavior] = []
        self.always: Misbehavior = lambda _handler, _request: None
        self.inside = 0
        self.lock = threading.Lock()
        self.start()


class Handler(Quiet):
    """One connection."""

    server: FakeServer

    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            server.inside += 1
            server.max_concurrency = max(server.max_concurrency, server.inside)
        try:
            answer = self._answer(body)
        finally:
            with server.lock:
                server.inside -= 1
        if answer is not None:
            self.send(answer)

    def send(self, answer: Response) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _answer(self, body: bytes) -> Response | None:
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
            act = server.misbehave.pop(0) if server.misbehave else server.always
        other = act(self, request)
        if other is not None:
            return None if other.status == 0 else other
        scores = [score(server.api, request.query, text) for text in request.sent()]
        return Response(200, json.dumps(request.answer(scores)))


def respond(status: int, body: bytes | str = "", **headers: str) -> Misbehavior:
    """Answer so."""
    return lambda _handler, _request: Response(status, body, **headers)


def slow(seconds: float) -> Misbehavior:
    """Answer as usual, late."""

    def act(_handler: Handler, _request: Request) -> None:
        time.sleep(seconds)

    return act


def drop_connection(handler: Handler, _request: Request) -> Response:
    """Begin an answer and cut the connection."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n[{"index": 0')
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.close()
    return Response(0, b"")
