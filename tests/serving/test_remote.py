"""Our own client against our own server: real models, real processes, real HTTP/2."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.types import ASGIApp, Receive, Scope, Send

from rerank_plugins import Ranking, RemoteSpec, Reranker
from rerank_plugins.backends.remote.apis import ApiName
from rerank_plugins.errors import RemoteConnectionError
from rerank_plugins.serving import ServerSettings, create_app
from rerank_plugins.testing import FakeCrossEncoder
from tests.serving.live import QUESTION, TEXTS, TOKEN, Live, Process, wait_until_ready


@pytest.fixture(scope="module")
def expected() -> Ranking:
    return Reranker(dtype="float32").rank(QUESTION, TEXTS)


@pytest.mark.parametrize("api", ["rerank-plugins", "tei", "cohere"])
async def test_the_scores_are_those_of_the_model_here(
    server: Live, api: ApiName, expected: Ranking
) -> None:
    """Whichever of the server's APIs the client speaks, sync and async."""
    model = "any" if api == "cohere" else None
    reranker = Reranker(RemoteSpec(server.url, api=api, model=model, token=TOKEN))
    for found in (
        await asyncio.to_thread(reranker.rank, QUESTION, TEXTS),
        await reranker.arank(QUESTION, TEXTS),
    ):
        assert [one.index for one in found] == [one.index for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.relevance_score == pytest.approx(other.relevance_score, abs=1e-5)
            raw = other.relevance_score if api == "cohere" else other.raw_score
            assert one.raw_score == pytest.approx(raw, abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_server_loses_no_call() -> None:
    """``kill -9`` of one of two processes while eight threads ask."""
    question, texts = QUESTION, [f"{TEXTS[n % 3]} {n}" for n in range(20)]
    processes = [Process("--embedding-model", "none", "--dtype", "float32") for _ in range(2)]
    try:
        urls = [one.url() for one in processes]
        for url in urls:
            wait_until_ready(url)
        remote = RemoteSpec(urls, api="rerank-plugins", timeout_s=60, deadline_s=120)
        reranker = Reranker(remote)
        local = Reranker(dtype="float32").rank(question, texts)
        dead = threading.Event()

        def ask(number: int) -> list[Ranking]:
            """Rank until the server has been dead for a while."""
            found: list[Ranking] = []
            while not dead.is_set() or len(found) < 3:
                found.append(reranker.rank(f"{question} {number}", texts))
            return found

        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(ask, number) for number in range(8)]
            while "in_flight 2.0" not in _metrics(urls[0]):  # the other is this one
                time.sleep(0.01)
            processes[0].kill()
            time.sleep(2)
            dead.set()
            rankings = [ranking for job in jobs for ranking in job.result()]
        assert len(rankings) >= 24
        assert {len(one) for one in rankings} == {len(texts)}
        again = reranker.rank(question, texts)
        assert [one.index for one in again] == [one.index for one in local]
    finally:
        for one in processes:
            one.kill()


def _metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics").text


class Versions:
    """ASGI middleware that notes the version of HTTP and the connection of each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: list[tuple[str, object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen.append((scope["http_version"], scope["client"]))
        await self._app(scope, receive, send)


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Versions]]:
    """Our application behind TLS in a server that offers HTTP/2 (uvicorn has none)."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    app = Versions(create_app(ServerSettings(model=FakeCrossEncoder(), embedding_model=None)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        number = listener.detach()  # the server closes it
    config = Config()
    config.bind = [f"fd://{number}"]
    config.certfile = str(tmp_path / "certificate.pem")
    config.keyfile = str(tmp_path / "key.pem")
    config.errorlog = None
    config.graceful_timeout = 0.2
    end = threading.Event()

    async def ended() -> None:
        await asyncio.to_thread(end.wait)

    running = serve(app, config, shutdown_trigger=ended)  # type: ignore[arg-type]
    thread = threading.Thread(target=asyncio.run, args=(running,))
    thread.start()
    try:
        wait_until_ready(url)
        app.seen.clear()
        yield url, app
    finally:
        end.set()
        thread.join(30)
        assert not thread.is_alive()


def test_http_2_is_used_where_it_is_offered(encrypted: tuple[str, Versions]) -> None:
    """Ten requests at once over one connection."""
    url, app = encrypted
    remote = RemoteSpec(url, api="rerank-plugins", max_documents=2)
    reranker = Reranker(remote)
    ranking = reranker.rank(QUESTION, [f"Faust {n}" for n in range(20)])
    reranker.close()
    assert len(ranking) == 20
    assert len(app.seen) == 10
    assert {version for version, _ in app.seen} == {"2"}
    assert len({client for _, client in app.seen}) == 1


def test_a_certificate_that_nobody_knows_is_refused(
    encrypted: tuple[str, Versions], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, app = encrypted
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(RemoteConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        Reranker(RemoteSpec(url, api="rerank-plugins", retries=0)).rank(QUESTION, TEXTS)
    assert app.seen == []
