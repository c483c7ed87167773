"""Real servers on the loopback interface, in a thread or in a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import IO

import httpx
import uvicorn
from fastapi import FastAPI

from rerank_plugins.serving import ServerSettings, create_app
from rerank_plugins.serving.server import server_config

ROOT = Path(__file__).parents[2]
QUESTION = "Who wrote Faust?"
TEXTS = ["It rains in Weimar.", "Goethe wrote Faust.", "Faust is a city in no country."]
TOKEN = "open-sesame-0123456789"  # noqa: S105  (not a secret)


@dataclass(frozen=True)
class Live:
    """A server in a thread."""

    app: FastAPI
    url: str


def wait_until_ready(url: str, seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while httpx.get(f"{url}/ready").status_code != 200:
        assert time.monotonic() < end, "the models were not loaded in time"
        time.sleep(0.02)


@contextmanager
def live(settings: ServerSettings, token: str | None = None) -> Iterator[Live]:
    app = create_app(settings, token=token)
    server = uvicorn.Server(server_config(app, "127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url)
        yield Live(app, url)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Process:
    """``rerank-plugins serve`` in a process, with the lines that it logged."""

    def __init__(self, *arguments: str, token: str | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if token is not None:
            environment["RERANK_PLUGINS_TOKEN"] = token
        command = [sys.executable, "-m", "rerank_plugins.cli", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._unread: Queue[str] = Queue()
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,))
        self._reader.start()

    def wait_for(self, pattern: str) -> str:
        """Wait for a line of the log that matches, and return the match."""
        while True:
            match = re.search(pattern, self._unread.get(timeout=200))
            if match:
                return match[0]

    def url(self) -> str:
        """Wait until the server listens, and return its URL."""
        return self.wait_for(r"http://127\.0\.0\.1:\d+")

    def end(self, seconds: float = 200.0) -> int:
        """Wait for the end of the process, and return its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(10)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.lines.append(line)
                self._unread.put(line)
