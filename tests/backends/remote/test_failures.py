"""Failing, slow and malicious servers: correct scores or a clear error, and nothing else."""

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
from rerank_plugins.backends.remote.apis import excerpt, parse_retry_after, parse_scores
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
    return [document.index for document in Reranker(model).rank(QUERY, DOCUMENTS)]


@pytest.mark.parametrize(
    "failure", [respond(429), respond(502), respond(503, "<h1>busy</h1>"), respond(504), slow(1.5)]
)
def test_transient_failures_are_retried(server: FakeServer, failure: Misbehavior) -> None:
    server.misbehave = [failure, failure]
    assert order(remote(server, timeout_s=0.8)) == [1, 2, 0]
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 424, 500, 301])
def test_permanent_failures_are_not_retried(server: FakeServer, status: int) -> None:
    server.misbehave = [respond(status, json.dumps({"error": "not like this", "error_type": "x"}))]
    with pytest.raises(RemoteStatusError, match=f"answered {status}: not like this") as caught:
        order(remote(server))
    assert caught.value.status == status
    assert len(server.requests) == 1


def test_retries_are_limited(server: FakeServer) -> None:
    server.always = respond(503, "warming up")
    with pytest.raises(RemoteStatusError, match="503: warming up"):
        order(remote(server, retries=2))
    assert len(server.requests) == 3


@pytest.mark.parametrize("seconds", [1, None])
def test_retry_after_is_respected(server: FakeServer, seconds: int | None) -> None:
    """The header holds seconds, or a date in whole seconds."""
    header = str(seconds) if seconds else formatdate(time.time() + 2, usegmt=True)
    server.misbehave = [respond(429, "slow down", Retry_After=header)]
    start = time.monotonic()
    assert order(remote(server)) == [1, 2, 0]
    assert time.monotonic() - start >= 1


def test_retry_after_delays_other_requests_too(server: FakeServer) -> None:
    server.misbehave = [respond(503, Retry_After="1")]
    model = remote(server, max_concurrent=1)
    with pytest.raises(RemoteStatusError):
        order(remote(server, max_concurrent=1, retries=0, deadline_s=9))
    server.misbehave = [respond(503, Retry_After="1")]
    start = time.monotonic()
    Reranker(model).rank(QUERY, [f"document {n}" for n in range(100)])
    assert time.monotonic() - start >= 1
    assert len(server.requests) == 6


def test_a_wait_beyond_the_deadline_is_not_started(server: FakeServer) -> None:
    server.always = respond(429, "come back tomorrow", Retry_After="86400")
    start = time.monotonic()
    with pytest.raises(RemoteStatusError, match="come back tomorrow") as caught:
        order(remote(server))
    assert caught.value.retry_after_s == 86_400
    assert time.monotonic() - start < 20
    assert len(server.requests) == 1


def test_the_deadline_covers_all_attempts(server: FakeServer) -> None:
    server.always = slow(0.4)
    start = time.monotonic()
    with pytest.raises(RemoteTimeoutError, match=r"timeout_s=0\.3"):
        order(remote(server, timeout_s=0.3, deadline_s=1, retries=99))
    assert time.monotonic() - start < 20


def test_a_slowly_dripping_response_ends_at_the_deadline(server: FakeServer) -> None:
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
    ("body", "error"),
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
def test_invalid_responses_are_errors(server: FakeServer, body: bytes | str, error: str) -> None:
    server.misbehave = [respond(200, body)]
    with pytest.raises(RemoteError, match=error) as caught:
        order(remote(server))
    assert len(str(caught.value)) < 800
    assert len(server.requests) == 1
    assert order(remote(server)) == [1, 2, 0]


def test_a_decompression_bomb_is_not_decompressed_completely(server: FakeServer) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    server.misbehave = [
        respond(200, bomb, Content_Encoding="gzip"),
        respond(200, b"no gzip at all", Content_Encoding="gzip"),
    ]
    with pytest.raises(RemoteError, match="more than"):
        order(remote(server))
    with pytest.raises(RemoteError, match="cannot be decompressed"):
        order(remote(server))


def test_results_may_have_any_order(server: FakeServer) -> None:
    for permutation in ([2, 0, 1], [0, 1, 2], [1, 0, 2], [2, 1, 0]):

        def shuffled(
            _handler: object, request: Request, order: list[int] = permutation
        ) -> Response:
            texts = request.sent()
            return Response(200, results(*((n, score("tei", QUERY, texts[n])) for n in order)))

        server.misbehave = [shuffled]
        assert order(remote(server)) == [1, 2, 0]


def test_a_closed_connection_is_an_error_and_the_next_request_works(server: FakeServer) -> None:
    server.misbehave = [drop_connection]
    with pytest.raises(RemoteConnectionError, match=r"the request to .*127\.0\.0\.1.* failed"):
        order(remote(server))
    assert order(remote(server)) == [1, 2, 0]


def test_an_unreachable_server_is_a_connection_error(server: FakeServer) -> None:
    model = remote(server)
    server.stop()
    with pytest.raises(RemoteConnectionError, match="failed: ConnectError"):
        order(model)


def test_a_failed_request_fails_its_ranking_without_repeating_the_batch(server: FakeServer) -> None:
    """Four requests: one fails, the others are cancelled, and the batch is not run again."""
    server.always = respond(503, "no")
    with pytest.raises(RemoteStatusError):
        Reranker(remote(server, retries=1)).rank(QUERY, [f"document {n}" for n in range(100)])
    assert len(server.requests) <= 8


def test_failover_to_a_working_server(start: Start) -> None:
    """One server is down, one is overloaded, one works."""
    down, overloaded, working = start(), start(), start()
    model = remote(down, overloaded, working)
    down.stop()
    overloaded.always = respond(503, "full")
    for _ in range(5):
        assert order(model) == [1, 2, 0]
    assert len(working.requests) == 5
    assert len(overloaded.requests) < 5  # it is avoided for a while


def test_no_request_is_lost_if_a_server_fails_under_load(start: Start) -> None:
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


def test_requests_go_to_the_server_with_the_fewest_outstanding_ones(start: Start) -> None:
    slow_server, fast_server = start(), start()
    slow_server.always = slow(1.0)
    Reranker(remote(slow_server, fast_server)).rank(QUERY, [f"document {n}" for n in range(320)])
    assert len(slow_server.requests) < len(fast_server.requests)


def test_excerpts_of_responses_are_short_and_without_the_token() -> None:
    text = excerpt(f"no {TOKEN} \x1b[31m {'x' * 9999}".encode(), TOKEN)
    assert text.startswith("no *** [31m xxx")
    assert len(text) < 320
    nested = json.dumps({"error": {"message": "model not found", "code": 404}}).encode()
    assert excerpt(nested, None) == "model not found"
    assert "field required" in excerpt(b'{"detail": [{"msg": "field required"}]}', None)


def test_retry_after_holds_seconds_or_a_date() -> None:
    assert parse_retry_after("3") == 3
    assert parse_retry_after("-3") == 0
    assert parse_retry_after(None) is None
    assert parse_retry_after("soon") is None
    assert parse_retry_after("nan") is None
    assert parse_retry_after(formatdate(time.time() - 60, usegmt=True)) == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
almost_valid_results = st.lists(
    st.fixed_dictionaries(
        {"index": st.integers(-1, 3) | json_values},
        optional={"score": st.floats() | json_values, "relevance_score": st.floats()},
    )
)


@given(
    body=st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | almost_valid_results.map(lambda results: json.dumps(results).encode())
    | almost_valid_results.map(lambda results: json.dumps({"results": results}).encode())
)
def test_every_body_is_an_error_or_gives_scores_by_index(body: bytes) -> None:
    assert len(excerpt(body, None)) <= 304
    try:
        scores = parse_scores(body, 3)
    except RemoteError:
        return
    response = json.loads(body)
    results = response if isinstance(response, list) else response["results"]
    assert len(results) == 3
    for result in results:
        value = result.get("relevance_score", result.get("score"))
        assert scores[result["index"]] == pytest.approx(value, rel=1e-6, abs=1e-40)


@given(values=st.lists(st.floats(-1e30, 1e30), min_size=1), data=st.data())
def test_every_permutation_is_mapped_by_index(values: list[float], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(list(enumerate(values))))
    body = json.dumps([{"index": index, "score": value} for index, value in shuffled]).encode()
    assert parse_scores(body, len(values)).tolist() == pytest.approx(values, rel=1e-6, abs=1e-40)
