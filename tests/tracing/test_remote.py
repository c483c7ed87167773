"""One trace over client and server: real HTTP, our own server, the embedded model."""

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
async def test_one_trace_over_both(
    spans: Spans, server: Live, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rerank_plugins")
    reranker = Reranker(RemoteSpec(server.url, api="rerank-plugins", token=TOKEN))
    ranking = (
        await reranker.arank(QUESTION, TEXTS) if how == "async" else reranker.rank(QUESTION, TEXTS)
    )
    assert ranking[0].index == 1
    (ours,) = [one for one in spans.named("rerank") if one.parent is None]
    call = spans.one("rerank.remote")
    # The server's span of a request ends after its answer.
    assert wait_until(lambda: bool(spans.named("POST /rerank")), 10)
    served = spans.one("POST /rerank")
    (theirs,) = [one for one in spans.named("rerank") if one.parent is not None]
    assert call in spans.under(ours)
    assert spans.under(call) == [served]
    assert spans.under(served) == [theirs]
    assert len({trace_of(one) for one in spans.all()}) == 1
    assert "rerank.score" in {one.name for one in spans.under(theirs)}
    assert call.kind is SpanKind.CLIENT
    assert served.kind is SpanKind.SERVER
    found = values(call)
    assert found["server.address"] == "127.0.0.1"
    assert found["server.port"] == httpx.URL(server.url).port
    assert found["http.response.status_code"] == 200
    assert found["rerank_plugins.api"] == "rerank-plugins"
    assert found["rerank_plugins.documents"] == 3
    assert found["rerank_plugins.retries"] == 0
    assert values(served)["http.response.status_code"] == 200
    assert values(theirs)["reranker.model_name"] == "mini"
    assert times(ours)[0] <= times(call)[0] <= times(theirs)[0]
    assert times(theirs)[1] <= times(call)[1] <= times(ours)[1]
    for text in (QUESTION, *TEXTS, TOKEN):
        assert text not in spans.json()
        assert text not in caplog.text


def test_the_server_continues_any_trace_and_leaves_probes_out(spans: Spans, server: Live) -> None:
    made = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"Authorization": f"Bearer {TOKEN}", "traceparent": f"00-{made}-00f067aa0ba902b7-01"}
    body = {"query": QUESTION, "documents": TEXTS}
    for path in ("/v2/rerank", "/a secret path", "/health"):
        httpx.post(f"{server.url}{path}", json=body, headers=headers)
    assert wait_until(lambda: bool(spans.named("POST other")), 10)
    served = [one for one in spans.all() if one.kind is SpanKind.SERVER]
    assert [one.name for one in served] == ["POST /v2/rerank", "POST other"]
    assert {f"{trace_of(one):032x}" for one in spans.all()} == {made}
    httpx.post(f"{server.url}/v2/rerank", json=body, headers={**headers, "traceparent": "odd"})
    assert wait_until(lambda: len(spans.named("POST /v2/rerank")) > 1, 10)
    assert spans.named("POST /v2/rerank")[-1].parent is None


def test_a_refusal_has_its_status_and_no_token(spans: Spans, server: Live) -> None:
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

    def note(handler: Handler, request: Request) -> None:
        sent.append(dict(handler.headers))

    def busy(handler: Handler, request: Request) -> object:
        note(handler, request)
        return respond(503)(handler, request)

    fake_server.misbehave = [busy, busy, note]  # type: ignore[list-item]
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
    traced = [{name.lower(): value for name, value in one.items()} for one in sent]
    assert [one["traceparent"].startswith(begin) for one in traced] == [True] * 3
    assert "baggage-of-the-user" not in str(sent)
    assert OTHER_TOKEN not in spans.json()


def test_what_a_server_repeats_stays_out(
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


def test_a_trace_that_is_not_sampled_is_not_recorded_and_goes_on(
    spans: Spans, fake_server: FakeServer
) -> None:
    sent: list[str] = []

    def note(handler: Handler, _request: Request) -> None:
        sent.append(handler.headers["traceparent"])

    fake_server.always = note
    unsampled = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(unsampled)):
        Reranker(remote(fake_server)).rank("red", ["red"])
    assert spans.all() == []
    assert sent[0].startswith(f"00-{0xABC:032x}-")
    assert sent[0].endswith("-00")
