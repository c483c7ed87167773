"""The remote backend against the server: real models, processes and HTTP/2."""

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
async def test_scores_equal_those_of_a_local_model(
    server: Live, api: ApiName, expected: Ranking
) -> None:
    """With every API, sync and async."""
    model = "any" if api == "cohere" else None
    reranker = Reranker(RemoteSpec(server.url, api=api, model=model, token=TOKEN))
    for ranking in (
        await asyncio.to_thread(reranker.rank, QUESTION, TEXTS),
        await reranker.arank(QUESTION, TEXTS),
    ):
        for document, local in zip(ranking, expected, strict=True):
            assert document.index == local.index
            assert document.relevance_score == pytest.approx(local.relevance_score, abs=1e-5)
            raw = local.relevance_score if api == "cohere" else local.raw_score
            assert document.raw_score == pytest.approx(raw, abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_server_loses_no_call() -> None:
    """One of two servers is killed with SIGKILL while eight threads send requests."""
    question, texts = QUESTION, [f"{TEXTS[n % 3]} {n}" for n in range(20)]
    processes = [Process("--embedding-model", "none", "--dtype", "float32") for _ in range(2)]
    try:
        urls = [process.url() for process in processes]
        for url in urls:
            wait_until_ready(url)
        remote = RemoteSpec(urls, api="rerank-plugins", timeout_s=60, deadline_s=120)
        reranker = Reranker(remote)
        local = Reranker(dtype="float32").rank(question, texts)
        dead = threading.Event()

        def rank_until_dead(number: int) -> list[Ranking]:
            """Rank until the server has been dead for two seconds."""
            rankings: list[Ranking] = []
            while not dead.is_set() or len(rankings) < 3:
                rankings.append(reranker.rank(f"{question} {number}", texts))
            return rankings

        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(rank_until_dead, number) for number in range(8)]
            while "in_flight 2.0" not in _metrics(urls[0]):  # the other is the scrape itself
                time.sleep(0.01)
            processes[0].kill()
            time.sleep(2)
            dead.set()
            rankings = [ranking for future in futures for ranking in future.result()]
        assert len(rankings) >= 24
        assert {len(ranking) for ranking in rankings} == {len(texts)}
        again = reranker.rank(question, texts)
        assert [document.index for document in again] == [document.index for document in local]
    finally:
        for process in processes:
            process.kill()


def _metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics").text


class ConnectionRecorder:
    """ASGI middleware that records the HTTP version and the client of each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seen: list[tuple[str, object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen.append((scope["http_version"], scope["client"]))
        await self._app(scope, receive, send)


@pytest.fixture
def encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, ConnectionRecorder]]:
    """The application with TLS in a server that supports HTTP/2 (uvicorn does not)."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    app = ConnectionRecorder(
        create_app(ServerSettings(model=FakeCrossEncoder(), embedding_model=None))
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        descriptor = listener.detach()  # the server closes it
    config = Config()
    config.bind = [f"fd://{descriptor}"]
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


def test_http_2_is_used_if_the_server_supports_it(
    encrypted: tuple[str, ConnectionRecorder],
) -> None:
    """Ten concurrent requests use one connection."""
    url, app = encrypted
    remote = RemoteSpec(url, api="rerank-plugins", max_documents=2)
    reranker = Reranker(remote)
    ranking = reranker.rank(QUESTION, [f"Faust {n}" for n in range(20)])
    reranker.close()
    assert len(ranking) == 20
    assert len(app.seen) == 10
    assert {version for version, _ in app.seen} == {"2"}
    assert len({client for _, client in app.seen}) == 1


def test_an_unknown_certificate_is_rejected(
    encrypted: tuple[str, ConnectionRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, app = encrypted
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(RemoteConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        Reranker(RemoteSpec(url, api="rerank-plugins", retries=0)).rank(QUESTION, TEXTS)
    assert app.seen == []
