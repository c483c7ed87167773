"""One trace over client and server, with real HTTP and the embedded model."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode

from rerank_plugins import RemoteSpec, Reranker
from rerank_plugins.errors import RemoteError, RemoteStatusError
from rerank_plugins.serving import ServerSettings
from tests.backends.remote.conftest import remote
from tests.backends.remote.schemas import Request
from tests.helpers.fake_server import TOKEN as OTHER_TOKEN
from tests.helpers.fake_server import FakeServer, Handler, respond
from tests.ray.live import wait_until
from tests.serving.live import QUESTION, TEXTS, TOKEN, Live, live
from tests.tracing.conftest import Spans, identity, times, trace_of, values


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(ServerSettings(dtype="float32", embedding_model=None), TOKEN) as running:
        yield running


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    server = FakeServer("tei")
    yield server
    server.stop()


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_client_and_server_share_a_trace(
    spans: Spans, server: Live, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rerank_plugins")
    reranker = Reranker(RemoteSpec(server.url, api="rerank-plugins", token=TOKEN))
    ranking = (
        await reranker.arank(QUESTION, TEXTS) if how == "async" else reranker.rank(QUESTION, TEXTS)
    )
    assert ranking[0].index == 1
    (client,) = [span for span in spans.named("rerank") if span.parent is None]
    call = spans.one("rerank.remote")
    # The server's span of a request ends after its response.
    assert wait_until(lambda: bool(spans.named("POST /rerank")), 10)
    served = spans.one("POST /rerank")
    (remote_call,) = [span for span in spans.named("rerank") if span.parent is not None]
    assert call in spans.under(client)
    assert spans.under(call) == [served]
    assert spans.under(served) == [remote_call]
    assert len({trace_of(span) for span in spans.all()}) == 1
    assert "rerank.score" in {span.name for span in spans.under(remote_call)}
    assert call.kind is SpanKind.CLIENT
    assert served.kind is SpanKind.SERVER
    attributes = values(call)
    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == httpx.URL(server.url).port
    assert attributes["http.response.status_code"] == 200
    assert attributes["rerank_plugins.api"] == "rerank-plugins"
    assert attributes["rerank_plugins.documents"] == 3
    assert attributes["rerank_plugins.retries"] == 0
    assert values(served)["http.response.status_code"] == 200
    assert values(remote_call)["reranker.model_name"] == "mini"
    assert times(client)[0] <= times(call)[0] <= times(remote_call)[0]
    assert times(remote_call)[1] <= times(call)[1] <= times(client)[1]
    for text in (QUESTION, *TEXTS, TOKEN):
        assert text not in spans.json()
        assert text not in caplog.text


def test_the_server_continues_any_trace_and_does_not_record_probes(
    spans: Spans, server: Live
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
    }
    body = {"query": QUESTION, "documents": TEXTS}
    for path in ("/v2/rerank", "/a secret path", "/health"):
        httpx.post(f"{server.url}{path}", json=body, headers=headers)
    assert wait_until(lambda: bool(spans.named("POST other")), 10)
    served = [span for span in spans.all() if span.kind is SpanKind.SERVER]
    assert [span.name for span in served] == ["POST /v2/rerank", "POST other"]
    assert {f"{trace_of(span):032x}" for span in spans.all()} == {trace_id}
    httpx.post(f"{server.url}/v2/rerank", json=body, headers={**headers, "traceparent": "invalid"})
    assert wait_until(lambda: len(spans.named("POST /v2/rerank")) > 1, 10)
    assert spans.named("POST /v2/rerank")[-1].parent is None


def test_a_refused_call_has_its_status_and_no_token(spans: Spans, server: Live) -> None:
    wrong = f"{TOKEN}-not"
    reranker = Reranker(RemoteSpec(server.url, api="rerank-plugins", token=wrong))
    with pytest.raises(RemoteStatusError):
        reranker.rank(QUESTION, TEXTS)
    call = spans.one("rerank.remote")
    assert values(call)["http.response.status_code"] == 401
    assert values(call)["error.type"] == "rerank_plugins.errors.RemoteStatusError"
    assert call.status.status_code is StatusCode.ERROR
    assert wrong not in spans.json()


def test_retries_are_counted_and_every_attempt_carries_the_trace(
    spans: Spans, fake_server: FakeServer
) -> None:
    sent: list[dict[str, str]] = []

    def record(handler: Handler, request: Request) -> None:
        sent.append(dict(handler.headers))

    def busy(handler: Handler, request: Request) -> object:
        record(handler, request)
        return respond(503)(handler, request)

    fake_server.misbehave = [busy, busy, record]  # type: ignore[list-item]
    token = context.attach(baggage.set_baggage("user", "baggage-of-the-user"))
    try:
        Reranker(remote(fake_server)).rank("red", ["blue", "red"])
    finally:
        context.detach(token)
    call = spans.one("rerank.remote")
    assert values(call)["rerank_plugins.retries"] == 2
    assert values(call)["http.response.status_code"] == 200
    assert call.context is not None
    begin = f"00-{call.context.trace_id:032x}-{identity(call):016x}-"
    traced = [{name.lower(): value for name, value in headers.items()} for headers in sent]
    assert [headers["traceparent"].startswith(begin) for headers in traced] == [True] * 3
    assert "baggage-of-the-user" not in str(sent)
    assert OTHER_TOKEN not in spans.json()


def test_texts_that_a_server_repeats_are_not_recorded(
    spans: Spans, fake_server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rerank_plugins")
    fake_server.always = respond(400, '{"error": "cannot read: red herring"}')
    with pytest.raises(RemoteError, match="red herring"):
        Reranker(remote(fake_server)).rank("red", ["red herring"])
    ranking = Reranker(remote(fake_server), on_error="passthrough").rank("red", ["red herring"])
    assert "red herring" in (ranking.error or "")
    assert len(spans.named("rerank.remote")) == 2
    assert "herring" not in spans.json()
    assert "herring" not in caplog.text


def test_a_trace_that_is_not_sampled_is_propagated_and_not_recorded(
    spans: Spans, fake_server: FakeServer
) -> None:
    sent: list[str] = []

    def record(handler: Handler, _request: Request) -> None:
        sent.append(handler.headers["traceparent"])

    fake_server.always = record
    unsampled = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(unsampled)):
        Reranker(remote(fake_server)).rank("red", ["red"])
    assert spans.all() == []
    assert sent[0].startswith(f"00-{0xABC:032x}-")
    assert sent[0].endswith("-00")
