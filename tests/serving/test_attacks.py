"""Attacks on a real server process: each meets its limit, and other clients are served."""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Final

import httpx
import pytest

from benchmarks.common import process_status
from tests.serving.live import QUESTION, TEXTS, Process, wait_until_ready
from tests.serving.test_api import APIS

pytestmark = pytest.mark.slow

TIMEOUT_S: Final = 2.0
CONNECTIONS: Final = 20
GRACE_S: Final = 15.0
"""Delay of a timeout that is accepted on a busy machine."""

BODY: Final = {"query": QUESTION, "texts": TEXTS}
HEAD: Final = b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


class Attacked:
    """The attacked server process and its resources."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url
        host, _, port = url.removeprefix("http://").partition(":")
        self.address = (host, int(port))

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=GRACE_S)

    def serves(self) -> bool:
        """Return whether a valid request is answered."""
        return httpx.post(f"{self.url}/rerank", json=BODY, timeout=60).status_code == 200

    def resident_mib(self) -> float:
        return process_status(self.process.process.pid, "VmRSS") / 1024

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.process.pid}/fd"))


@pytest.fixture(scope="module")
def attacked() -> Iterator[Attacked]:
    arguments = ["--embedding-model", "none", "--body-timeout", str(TIMEOUT_S)]
    arguments += ["--max-connections", str(CONNECTIONS), "--max-body-bytes", "1000000"]
    process = Process(*arguments, "--dtype", "float32")
    try:
        url = process.url()
        wait_until_ready(url)
        yield Attacked(process, url)
        assert process.process.poll() is None, "the server died"
        log = "".join(process.lines)
        assert "Traceback" not in log
        assert '"level": "error"' not in log
    finally:
        process.kill()


def read_to_end(connection: socket.socket) -> bytes:
    """Return everything up to the end or the reset of the connection."""
    response = b""
    try:
        while part := connection.recv(65_536):
            response += part
    except ConnectionError:
        pass
    return response


def seconds_until_closed(connection: socket.socket, drip: bytes = b"") -> float:
    """Return how long the server keeps a connection on which ``drip`` is sent repeatedly."""
    start = time.monotonic()
    while time.monotonic() - start < TIMEOUT_S + GRACE_S:
        try:
            connection.send(drip)
            if select.select([connection], [], [], 0.1)[0] and not connection.recv(65_536):
                break
        except ConnectionError:
            break
    return time.monotonic() - start


@contextmanager
def many(attacked: Attacked, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(attacked.connect())) for _ in range(count)]


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"", b""),
        (b"", b"G"),
        (HEAD, b"X-a: b\r\n"),
        (HEAD + b"Content-Length: 9999\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["nothing", "a letter at a time", "a header at a time", "slow body", "slow chunks"],
)
def test_a_slow_request_is_closed(attacked: Attacked, begin: bytes, drip: bytes) -> None:
    with closing(attacked.connect()) as connection:
        connection.sendall(begin)
        seconds = seconds_until_closed(connection, drip)
    assert TIMEOUT_S * 0.9 < seconds < TIMEOUT_S + GRACE_S


def test_slow_clients_do_not_block_others(attacked: Attacked) -> None:
    """Clients that send no complete request use all connections; they are closed in time."""
    with many(attacked, CONNECTIONS + 5) as held:
        for connection in held:
            connection.sendall(HEAD)
        end = time.monotonic() + TIMEOUT_S + GRACE_S
        while not attacked.serves():
            assert time.monotonic() < end
            time.sleep(0.2)


def test_connections_beyond_the_limit_are_answered_503(attacked: Attacked) -> None:
    with many(attacked, CONNECTIONS + 5):
        time.sleep(0.2)
        response = httpx.get(f"{attacked.url}/health")
        assert response.status_code == 503
    end = time.monotonic() + GRACE_S
    while httpx.get(f"{attacked.url}/health").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_client_that_does_not_read_is_closed(attacked: Attacked) -> None:
    """It requests its texts in a loop and reads no response."""
    body = b'{"query": "a", "texts": ["%s"], "return_text": true}' % (b"a" * 900_000)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    # First the memory of the same request by a client that reads.
    headers = {"Content-Type": "application/json"}
    honest = httpx.post(f"{attacked.url}/rerank", content=body, headers=headers, timeout=60)
    assert honest.status_code == 200
    before = attacked.resident_mib()
    with closing(attacked.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(0.5)
        start = time.monotonic()
        with suppress(ConnectionError):
            sent = 0
            while time.monotonic() - start < 4 * TIMEOUT_S + GRACE_S:
                with suppress(TimeoutError):
                    sent += connection.send(request[sent % len(request) :])
            pytest.fail("the connection stays open")
    assert sent > len(request), "the server never sent a response"
    assert time.monotonic() - start > TIMEOUT_S
    assert attacked.resident_mib() - before < 64
    assert attacked.serves()


def test_a_huge_body_allocates_no_memory(attacked: Attacked) -> None:
    before = attacked.resident_mib()
    for headers in (b"Content-Length: 999999999999", b"Transfer-Encoding: chunked"):
        with closing(attacked.connect()) as connection:
            connection.sendall(HEAD + headers + b"\r\n\r\n")
            part = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)
            try:
                for _ in range(1_000):
                    connection.sendall(part)
            except ConnectionError:
                pass
            response = b""
            try:
                response = read_to_end(connection)
            except TimeoutError:
                pytest.fail("the connection stays open")
        assert not response or response.startswith(b"HTTP/1.1 413 ")
    assert attacked.resident_mib() - before < 64
    assert attacked.serves()


@pytest.mark.parametrize(
    "headers",
    [b"X-a: " + b"a" * 10**6, b"X-a: b\r\n" * 10**5, b"a" * 10**6, b": \r\n" * 1_000],
    ids=["one long", "many", "no colon", "no name"],
)
def test_oversized_headers_are_rejected(attacked: Attacked, headers: bytes) -> None:
    with closing(attacked.connect()) as connection:
        with suppress(ConnectionError):
            connection.sendall(HEAD + headers + b"\r\n\r\n")
        response = read_to_end(connection)
    assert not response or re.match(rb"HTTP/1.1 (400|431) ", response)
    assert attacked.serves()


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("part", [b"[", b'{"a":', b'{"query":['])
def test_deep_json_is_rejected(attacked: Attacked, path: str, part: bytes) -> None:
    for depth in (500, 100_000):
        response = httpx.post(
            f"{attacked.url}{path}", content=part * depth, timeout=60,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        assert response.status_code in (400, 404, 413, 422)
        assert len(response.content) < 5_000


def test_pipelined_requests_are_answered_in_order(attacked: Attacked) -> None:
    before = attacked.resident_mib()
    count = 3_000
    with closing(attacked.connect()) as connection:
        connection.settimeout(60)
        last = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * (count - 1) + last)
        response = read_to_end(connection)
    assert response.count(b"HTTP/1.1 200 ") == count
    assert attacked.resident_mib() - before < 64


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 100_000,
        b"GET /health\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["two lengths", "lengths differ", "negative", "huge chunk", "endless chunk", "HTTP/0.9",
         "HTTP/2", "long path", "TLS", "websocket"],
)  # fmt: skip
def test_malformed_http_is_rejected(attacked: Attacked, request_: bytes) -> None:
    with closing(attacked.connect()) as connection:
        try:
            connection.sendall(request_)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        response = read_to_end(connection)
    assert not response or re.match(rb"HTTP/1.1 (400|404|408|413|422|431) ", response), response[
        :200
    ]
    assert attacked.serves()
