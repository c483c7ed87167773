"""Servers that refuse, stall, lie and vanish: a clear error or the right scores, never else."""

from __future__ import annotations

import gzip
import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import Reranker
from rerank_plugins.backends.remote.apis import excerpt, retry_after, scores_of
from rerank_plugins.errors import (
    RemoteConnectionError,
    RemoteError,
    RemoteStatusError,
    RemoteTimeoutError,
)
from rerank_plugins.types import TextPair
from tests.backends.remote.conftest import Start, remote
from tests.backends.remote.schemas import Request
from tests.helpers.fake_server import (
    TOKEN,
    FakeServer,
    Misbehavior,
    Response,
    drop_connection,
    respond,
    score,
    slow,
)

QUERY = "who wrote faust"
DOCUMENTS = ["rain", "goethe wrote faust", "faust"]


def order(model: Any) -> list[int]:
    return [one.index for one in Reranker(model).rank(QUERY, DOCUMENTS)]


@pytest.mark.parametrize(
    "trouble", [respond(429), respond(502), respond(503, "<h1>busy</h1>"), respond(504), slow(1.5)]
)
def test_what_passes_is_tried_again(server: FakeServer, trouble: Misbehavior) -> None:
    server.misbehave = [trouble, trouble]
    assert order(remote(server, timeout_s=0.8)) == [1, 2, 0]
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 424, 500, 301])
def test_what_does_not_pass_is_not_tried_again(server: FakeServer, status: int) -> None:
    server.misbehave = [respond(status, json.dumps({"error": "not like this", "error_type": "x"}))]
    with pytest.raises(RemoteStatusError, match=f"answered {status}: not like this") as caught:
        order(remote(server))
    assert caught.value.status == status
    assert len(server.requests) == 1


def test_retries_end(server: FakeServer) -> None:
    server.always = respond(503, "warming up")
    with pytest.raises(RemoteStatusError, match="503: warming up"):
        order(remote(server, retries=2))
    assert len(server.requests) == 3


@pytest.mark.parametrize("seconds", [1, None])
def test_retry_after_is_honoured(server: FakeServer, seconds: int | None) -> None:
    """In seconds, or as a date of whole seconds."""
    when = str(seconds) if seconds else formatdate(time.time() + 2, usegmt=True)
    server.misbehave = [respond(429, "slow down", Retry_After=when)]
    start = time.monotonic()
    assert order(remote(server)) == [1, 2, 0]
    assert time.monotonic() - start >= 1


def test_other_requests_wait_too_when_the_server_asked(server: FakeServer) -> None:
    server.misbehave = [respond(503, Retry_After="1")]
    model = remote(server, max_concurrent=1)
    with pytest.raises(RemoteStatusError):
        order(remote(server, max_concurrent=1, retries=0, deadline_s=9))
    server.misbehave = [respond(503, Retry_After="1")]
    start = time.monotonic()
    Reranker(model).rank(QUERY, [f"document {n}" for n in range(100)])
    assert time.monotonic() - start >= 1
    assert len(server.requests) == 6


def test_a_wait_beyond_the_deadline_is_not_begun(server: FakeServer) -> None:
    server.always = respond(429, "come back tomorrow", Retry_After="86400")
    start = time.monotonic()
    with pytest.raises(RemoteStatusError, match="come back tomorrow") as caught:
        order(remote(server))
    assert caught.value.retry_after_s == 86_400
    assert time.monotonic() - start < 20
    assert len(server.requests) == 1


def test_the_deadline_holds_for_all_attempts_together(server: FakeServer) -> None:
    server.always = slow(0.4)
    start = time.monotonic()
    with pytest.raises(RemoteTimeoutError, match=r"timeout_s=0\.3"):
        order(remote(server, timeout_s=0.3, deadline_s=1, retries=99))
    assert time.monotonic() - start < 20


def test_an_answer_that_drips_ends_at_the_deadline(server: FakeServer) -> None:
    def drip(handler: Any, _request: object) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)

    server.always = drip
    with pytest.raises(RemoteTimeoutError):
        order(remote(server, timeout_s=0.5, deadline_s=1))


def results(*pairs: tuple[Any, Any]) -> str:
    return json.dumps([{"index": index, "score": value} for index, value in pairs])


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<html><body>Please log in</body></html>", "not JSON.*Please log in"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("3", "no list of results"),
        ('{"data": []}', "no list of results"),
        ("[]", "3 of 3 documents have no score"),
        (results((0, 1.0), (1, 2.0)), "1 of 3 documents have no score, the first is 2"),
        (results((0, 1.0), (1, 2.0), (1, 2.0)), "document 1 has two scores"),
        (results((0, 1.0), (1, 2.0), (3, 2.0)), "no index from 0 to 2"),
        (results((0, 1.0), (1, 2.0), (-1, 2.0)), "no index from 0 to 2"),
        (results((0, 1.0), (1, 2.0), (True, 2.0)), "no index from 0 to 2"),
        (results((0, 1.0), (1, 2.0), ("2", 2.0)), "no index from 0 to 2"),
        (results((0, 1.0), (1, 2.0), (2, float("nan"))), "score of document 2 is not finite"),
        (results((0, 1.0), (1, 2.0), (2, 1e39)), "score of document 2 is not finite"),
        (results((0, 1.0), (1, 2.0), (2, 10**400)), "score of document 2 is not finite"),
        (results((0, 1.0), (1, 2.0), (2, "0.5")), "document 2 has no number"),
        (results((0, 1.0), (1, 2.0), (2, None)), "document 2 has no number"),
        (b" " * 3_000_000, "more than [0-9]+ bytes for 3 documents"),
    ],
)
def test_answers_that_cannot_be_used(server: FakeServer, body: bytes | str, complaint: str) -> None:
    server.misbehave = [respond(200, body)]
    with pytest.raises(RemoteError, match=complaint) as caught:
        order(remote(server))
    assert len(str(caught.value)) < 800
    assert len(server.requests) == 1
    assert order(remote(server)) == [1, 2, 0]


def test_a_compressed_bomb_is_not_unpacked_to_the_end(server: FakeServer) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    server.misbehave = [
        respond(200, bomb, Content_Encoding="gzip"),
        respond(200, b"no gzip at all", Content_Encoding="gzip"),
    ]
    with pytest.raises(RemoteError, match="more than"):
        order(remote(server))
    with pytest.raises(RemoteError, match="cannot be decompressed"):
        order(remote(server))


def test_any_order_of_results_is_right(server: FakeServer) -> None:
    for permutation in ([2, 0, 1], [0, 1, 2], [1, 0, 2], [2, 1, 0]):

        def shuffled(
            _handler: object, request: Request, order: list[int] = permutation
        ) -> Response:
            texts = request.sent()
            return Response(200, results(*((n, score("tei", QUERY, texts[n])) for n in order)))

        server.misbehave = [shuffled]
        assert order(remote(server)) == [1, 2, 0]


def test_a_cut_connection_is_an_error_and_the_next_request_works(server: FakeServer) -> None:
    server.misbehave = [drop_connection]
    with pytest.raises(RemoteConnectionError, match=r"127\.0\.0\.1.*cannot be asked"):
        order(remote(server))
    assert order(remote(server)) == [1, 2, 0]


def test_nobody_at_the_address(server: FakeServer) -> None:
    model = remote(server)
    server.stop()
    with pytest.raises(RemoteConnectionError, match="cannot be asked: ConnectError"):
        order(model)


def test_one_failed_request_of_a_list_fails_it_once(server: FakeServer) -> None:
    """Four requests; the engine does not run the batch again, the others are given up."""
    server.always = respond(503, "no")
    with pytest.raises(RemoteStatusError):
        Reranker(remote(server, retries=1)).rank(QUERY, [f"document {n}" for n in range(100)])
    assert len(server.requests) <= 8


def test_another_server_takes_over(start: Start) -> None:
    """One is down, one refuses, one works."""
    down, busy, good = start(), start(), start()
    model = remote(down, busy, good)
    down.stop()
    busy.always = respond(503, "full")
    for _ in range(5):
        assert order(model) == [1, 2, 0]
    assert len(good.requests) == 5
    assert len(busy.requests) < 5  # it is left in peace for a while


def test_a_server_that_dies_under_load_loses_no_call(start: Start) -> None:
    first, second = start(), start()
    first.always = second.always = slow(0.05)
    reranker = Reranker(remote(first, second, max_concurrent=4))
    futures = [
        reranker.engine.submit([TextPair(f"{QUERY} {n}", "faust") for n in range(5)])
        for _ in range(40)
    ]
    first.always = drop_connection
    for future in futures:
        assert len(future.result(30).values) == 5
    assert first.requests


def test_the_server_with_the_fewest_requests_is_asked(start: Start) -> None:
    stuck, free = start(), start()
    stuck.always = slow(1.0)
    Reranker(remote(stuck, free)).rank(QUERY, [f"document {n}" for n in range(320)])
    assert len(stuck.requests) < len(free.requests)


def test_what_a_server_says_is_short_and_without_the_token() -> None:
    said = excerpt(f"no {TOKEN} \x1b[31m {'x' * 9999}".encode(), TOKEN)
    assert said.startswith("no *** [31m xxx")
    assert len(said) < 320
    nested = json.dumps({"error": {"message": "model not found", "code": 404}}).encode()
    assert excerpt(nested, None) == "model not found"
    assert "field required" in excerpt(b'{"detail": [{"msg": "field required"}]}', None)


def test_retry_after_reads_what_the_standard_allows() -> None:
    assert retry_after("3") == 3
    assert retry_after("-3") == 0
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("nan") is None
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
almost = st.lists(
    st.fixed_dictionaries(
        {"index": st.integers(-1, 3) | json_values},
        optional={"score": st.floats() | json_values, "relevance_score": st.floats()},
    )
)


@given(
    body=st.binary()
    | json_values.map(lambda one: json.dumps(one).encode())
    | almost.map(lambda one: json.dumps(one).encode())
    | almost.map(lambda one: json.dumps({"results": one}).encode())
)
def test_any_body_is_an_error_or_scores_by_index(body: bytes) -> None:
    assert len(excerpt(body, None)) <= 304
    try:
        scores = scores_of(body, 3)
    except RemoteError:
        return
    answer = json.loads(body)
    listed = answer if isinstance(answer, list) else answer["results"]
    assert len(listed) == 3
    for one in listed:
        value = one.get("relevance_score", one.get("score"))
        assert scores[one["index"]] == pytest.approx(value, rel=1e-6, abs=1e-40)


@given(values=st.lists(st.floats(-1e30, 1e30), min_size=1), data=st.data())
def test_every_permutation_is_mapped_by_index(values: list[float], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(list(enumerate(values))))
    body = json.dumps([{"index": index, "score": value} for index, value in shuffled]).encode()
    assert scores_of(body, len(values)).tolist() == pytest.approx(values, rel=1e-6, abs=1e-40)
