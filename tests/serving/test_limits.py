"""Limits, tokens, deadlines, overload, disconnects and errors."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rerank_plugins import RemoteSpec
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.serving import ServerSettings, create_app
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder, overlap
from rerank_plugins.types import FloatArray
from tests.helpers.engines import GatedCrossEncoder
from tests.serving.live import QUESTION, TEXTS, TOKEN, Live, live
from tests.serving.test_api import APIS, message

BODY = {"query": QUESTION, "texts": TEXTS}


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def gated() -> Iterator[tuple[Live, GatedCrossEncoder]]:
    """A server whose model waits for the gate to open."""
    model = GatedCrossEncoder()
    settings = ServerSettings(model=model, embedding_model=None, max_queue_tokens=20)
    with live(settings) as running:
        yield running, model
        model.gate.set()


def test_documents_characters_and_bodies_are_limited() -> None:
    settings = ServerSettings(
        model=FakeCrossEncoder(), embedding_model=None,
        max_documents=3, max_characters=1_000, max_body_bytes=10_000,
    )  # fmt: skip
    with live(settings) as running, httpx.Client(base_url=running.url) as client:
        assert client.post("/rerank", json=BODY).status_code == 200
        many = client.post("/rerank", json={"query": QUESTION, "texts": ["a"] * 4})
        assert (many.status_code, many.json()["error_type"]) == (422, "Validation")
        assert "4 texts; this server takes up to 3" in message(many)
        long = client.post("/rerank", json={"query": QUESTION, "texts": ["a" * 1_000]})
        assert (long.status_code, long.json()["error_type"]) == (413, "Validation")
        assert "1016 characters" in message(long)
        announced = client.post("/v2/rerank", json={"query": QUESTION, "documents": ["a" * 10_000]})
        assert announced.status_code == 413
        assert "10000 bytes" in message(announced)
        # In chunks, without a content length.
        chunked = client.post("/v2/rerank", content=(b"x" * 1_000 for _ in range(11)))
        assert chunked.status_code == 413


def test_a_slow_body_times_out() -> None:
    settings = ServerSettings(model=FakeCrossEncoder(), embedding_model=None, body_timeout_s=0.2)
    with live(settings) as running:
        host, _, port = running.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            response = b""
            while part := connection.recv(4096):  # until the server closes
                response += part
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.2 s" in response


@pytest.mark.parametrize(
    "headers", [{"X-Bomb": "a" * 100_000}, {f"X-{n}": "a" for n in range(9_999)}]
)
def test_oversized_headers_are_rejected(server: Live, headers: dict[str, str]) -> None:
    try:
        response = httpx.get(f"{server.url}/health", headers=headers)
    except (httpx.ReadError, httpx.WriteError):
        pass  # the server closed the connection before all headers were sent
    else:
        assert response.status_code in (400, 431)  # 400 by the parser, 431 by the server
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"bearer {TOKEN}x", TOKEN, f"Basic {TOKEN}", "Bearer \xe9"]
)
def test_requests_without_the_token_are_401(server: Live, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    response = httpx.post(f"{server.url}{path}", json=APIS[path], headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "bearer token" in message(response)
    assert TOKEN not in response.text


def test_probes_and_docs_need_no_token(server: Live) -> None:
    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert httpx.get(f"{server.url}{path}").status_code == 200
    assert httpx.get(f"{server.url}/metrics").status_code == 401


def test_repr_and_pickle_do_not_contain_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_PLUGINS_TOKEN", TOKEN)
    settings = ServerSettings()
    app = create_app(settings)
    for value in (settings, app, vars(app.state), app.user_middleware):
        assert TOKEN not in repr(value)
    assert TOKEN.encode() not in pickle.dumps(settings)


def test_serialized_settings_do_not_contain_the_token_of_a_remote_model() -> None:
    settings = ServerSettings(model=RemoteSpec("http://127.0.0.1:1", api="tei", token=TOKEN))
    for value in (settings, settings.model_dump(), settings.model_dump_json()):
        assert TOKEN not in repr(value)


@pytest.mark.parametrize("token", ["", "a b", "line\n", "caf\xe9"])
def test_invalid_tokens_are_rejected(token: str) -> None:
    with pytest.raises(ConfigurationError, match="bearer token is empty or contains") as caught:
        create_app(token=token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_documents", 0),
        ("max_body_bytes", None),
        ("max_queue_tokens", True),
        ("body_timeout_s", 0),
        ("body_timeout_s", float("nan")),
        ("body_timeout_s", "1"),
    ],
)
def test_invalid_limits_are_rejected(setting: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=setting):
        ServerSettings(**{setting: value})  # type: ignore[arg-type]


def test_a_full_queue_is_answered_429(gated: tuple[Live, GatedCrossEncoder]) -> None:
    running, model = gated
    url = f"{running.url}/rerank"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, url, json=BODY, timeout=30)
        assert model.entered.wait(10)
        rejected = httpx.post(url, json=BODY)
        assert rejected.status_code == 429
        assert rejected.json()["error_type"] == "Overloaded"
        assert "its limit is 20" in message(rejected)
        assert 1 <= int(rejected.headers["retry-after"]) <= 60
        assert httpx.get(f"{running.url}/ready").status_code == 200
        model.gate.set()
        assert first.result().status_code == 200
    assert httpx.post(url, json=BODY).status_code == 200


def test_a_missed_deadline_removes_the_request_from_the_queue(
    gated: tuple[Live, GatedCrossEncoder],
) -> None:
    running, model = gated
    url = f"{running.url}/v2/rerank"
    body = {"query": QUESTION, "documents": [f"text {number}" for number in range(500)]}
    late = httpx.post(url, json=body, headers={"X-Deadline-Ms": "300"})
    assert late.status_code == 504
    assert "within 300.0 ms" in message(late)
    model.gate.set()
    assert httpx.post(url, json=APIS["/v2/rerank"]).status_code == 200
    assert sum(map(len, model.batches)) < 500


def test_documents_scored_by_the_deadline_are_returned() -> None:
    def slow(query: str, document: str) -> float:
        time.sleep(0.1)
        return overlap(query, document)

    texts = [f"{QUESTION} {number}" for number in range(40)]
    model = FakeCrossEncoder(slow, batch_tokens=16)  # one or two texts per batch
    with live(ServerSettings(model=model, embedding_model=None)) as running:
        headers = {"X-Deadline-Ms": "1000"}
        body = {"query": QUESTION, "texts": texts}
        tei = httpx.post(f"{running.url}/rerank", json=body, headers=headers)
        assert tei.headers["x-ranking-status"] == "partial"
        assert 1 <= len(tei.json()) < len(texts)
        body = {"query": QUESTION, "documents": texts}
        cohere = httpx.post(f"{running.url}/v2/rerank", json=body, headers=headers)
        assert cohere.headers["x-ranking-status"] == "partial"
        assert 1 <= len(cohere.json()["results"]) < len(texts)


def test_deadlines_apply_to_embeddings() -> None:
    class Slow(FakeBiEncoder):
        def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
            time.sleep(0.5)
            return super().run(batch)

    settings = ServerSettings(model=FakeCrossEncoder(), embedding_model=Slow())
    with live(settings) as running:
        url = f"{running.url}/v1/embeddings"
        late = httpx.post(url, json={"input": "rain"}, headers={"X-Deadline-Ms": "100"})
        assert late.status_code == 504
        assert httpx.post(url, json={"input": "rain"}).status_code == 200


@pytest.mark.parametrize("deadline", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_invalid_deadlines_are_rejected(http: httpx.Client, deadline: str) -> None:
    response = http.post("/rerank", json=BODY, headers={"X-Deadline-Ms": deadline})
    assert response.status_code == 422
    assert "X-Deadline-Ms" in message(response)


def test_a_met_deadline_changes_nothing(http: httpx.Client) -> None:
    timed = http.post("/rerank", json=BODY, headers={"X-Deadline-Ms": "600000"})
    plain = http.post("/rerank", json=BODY)
    assert timed.headers["x-ranking-status"] == plain.headers["x-ranking-status"] == "complete"
    for rank, expected in zip(timed.json(), plain.json(), strict=True):
        score = pytest.approx(expected["score"], abs=1e-5)
        assert rank == {"index": expected["index"], "score": score}


def test_a_disconnect_removes_the_request_from_the_queue(
    gated: tuple[Live, GatedCrossEncoder], caplog: pytest.LogCaptureFixture
) -> None:
    running, model = gated
    url = f"{running.url}/rerank"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=BODY, timeout=httpx.Timeout(10, read=0.3))
    wait_until(lambda: running.app.state.models.reranker.engine.stats().cancelled == 1)
    model.gate.set()
    assert httpx.post(url, json=BODY).status_code == 200
    page = httpx.get(f"{running.url}/metrics").text
    assert 'rerank_requests_total{path="/rerank",status="499"} 1.0' in page
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_model_error_is_answered_and_not_logged_with_texts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(query: str, document: str) -> float:
        message = f"cannot read {query} {document}"
        raise ValueError(message)

    with live(ServerSettings(model=FakeCrossEncoder(broken), embedding_model=None)) as running:
        tei = httpx.post(f"{running.url}/rerank", json=BODY)
        cohere = httpx.post(f"{running.url}/v2/rerank", json=APIS["/v2/rerank"])
    assert (tei.status_code, tei.json()["error_type"]) == (424, "Backend")
    assert cohere.status_code == 500
    for text in (QUESTION, *TEXTS):
        assert text not in caplog.text


def test_an_unexpected_error_is_answered_without_its_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        message = f"with {QUESTION}"
        raise LookupError(message)

    monkeypatch.setattr("rerank_plugins.serving.service.validate_size", fail)
    with live(ServerSettings(model=FakeCrossEncoder(), embedding_model=None)) as running:
        response = httpx.post(f"{running.url}/v2/rerank", json=APIS["/v2/rerank"])
    assert response.status_code == 500
    assert message(response) == "an unexpected error; see the log of the server."
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert line.fields["fault"]["type"] == "LookupError"  # type: ignore[attr-defined]
    assert line.fields["request_id"] == response.json()["id"]  # type: ignore[attr-defined]
    assert QUESTION not in json.dumps(line.fields)  # type: ignore[attr-defined]


async def test_a_loading_server_is_alive_but_not_ready() -> None:
    """The lifespan of the application does not run, so the models are not loaded."""
    app = create_app(ServerSettings(model=FakeCrossEncoder(), embedding_model=None))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        assert (await client.get("/health")).status_code == 200
        for response in (await client.get("/ready"), await client.post("/rerank", json=BODY)):
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
        await app.state.models.load()
        assert (await client.get("/ready")).status_code == 200


async def test_concurrent_requests_share_batches() -> None:
    model = FakeCrossEncoder(batch_tokens=100_000)
    with live(ServerSettings(model=model, embedding_model=None)) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            requests = [client.post("/rerank", json=BODY) for _ in range(50)]
            responses = await asyncio.gather(*requests)
    assert {response.status_code for response in responses} == {200}
    assert sum(map(len, model.batches)) == 150
    assert len(model.batches) < 50
