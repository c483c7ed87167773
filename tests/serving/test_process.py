"""The process of ``rerank-plugins serve``: start, logs and shutdown."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.live import QUESTION, TEXTS, TOKEN, Process, wait_until_ready

LONG = {"query": QUESTION, "texts": [f"{number} {'long passage ' * 150}" for number in range(80)]}
Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Process] = []

    def begin(*arguments: str, token: str | None = None) -> Process:
        running.append(Process(*arguments, token=token))
        return running[-1]

    yield begin
    for process in running:
        process.kill()


@pytest.mark.slow
def test_sigterm_finishes_requests_in_flight_and_logs_contain_no_text(start: Start) -> None:
    process = start("--embedding-model", "none", "--drain", "200", token=TOKEN)
    url = process.url()
    wait_until_ready(url)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=url, headers=headers) as client:
        assert client.post("/rerank", json={"query": QUESTION, "texts": TEXTS}).status_code == 200
        assert client.post("/rerank", json={"query": QUESTION, "texts": [3]}).status_code == 422
        assert client.get(f"/{TEXTS[0]}?q={QUESTION}").status_code == 404
        long = pool.submit(httpx.post, f"{url}/rerank", json=LONG, headers=headers, timeout=120)
        while "in_flight 2.0" not in client.get("/metrics").text:  # the other is the scrape itself
            time.sleep(0.01)
        process.process.send_signal(signal.SIGTERM)
        _until_refused(url)
        assert not long.done()
        assert len(long.result().json()) == len(LONG["texts"])
    assert process.end() in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in process.lines]
    requests = [line for line in lines if line["message"] == "request"]
    assert [request["status"] for request in requests] == [200, 422, 404, 200]
    assert requests[-1]["documents"] == len(LONG["texts"])
    assert requests[-1]["path"] == "/rerank"
    log = "".join(process.lines)
    for secret in (TOKEN, QUESTION, "Weimar", "long passage"):
        assert secret not in log


def _until_refused(url: str) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            httpx.get(f"{url}/health")
        except httpx.ConnectError:
            return
        time.sleep(0.02)
    pytest.fail("new connections are still accepted")


def test_a_failed_load_ends_the_process(start: Start, tmp_path: Path) -> None:
    process = start("--model", str(tmp_path / "nothing"), "--local-files-only")
    assert process.end() == 2
    assert process.lines[-1].startswith("rerank-plugins: ")
    assert "nothing" in process.lines[-1]


def test_an_invalid_setting_ends_the_process(start: Start) -> None:
    process = start("--max-documents", "0")
    assert process.end() == 2
    assert process.lines == [
        "rerank-plugins: max_documents is 0; it must be an integer of at least 1.\n"
    ]


def test_listening_beyond_this_machine_is_logged(start: Start) -> None:
    everywhere = "0.0.0.0"  # noqa: S104  (under test)
    process = start("--host", everywhere, "--embedding-model", "none", "--log-level", "warning")
    process.wait_for("listens beyond this machine")
