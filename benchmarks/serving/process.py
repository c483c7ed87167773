"""Server processes: ours and Infinity's, on the loopback, on the same weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import httpx

import rerank_plugins
from benchmarks.environment import ROOT
from benchmarks.process_status import status

MINI: Final = Path(rerank_plugins.__file__).parent / "models" / "mini"
INFINITY: Final = ROOT / ".peers" / "infinity" / "bin" / "infinity_emb"
"""Made by ``make peers``."""

_START_S: Final = 240.0
_END_S: Final = 60.0


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: Its base address.
        pid: Its process.
    """

    url: str
    pid: int

    @property
    def peak_mib(self) -> float:
        """The most memory that it has had in RAM so far (Linux)."""
        return status(self.pid, "VmHWM") / 1024

    @property
    def cpu_s(self) -> float:
        """The seconds that it has computed so far, on all cores (Linux)."""
        fields = (
            Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def hollow() -> Iterator[Server]:
    """Run our server without the model's arithmetic; see :mod:`benchmarks.serving.hollow`."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.serving.hollow", str(port)]
    with _running(command, port, "/ready") as server:
        yield server


@contextmanager
def ours(*arguments: str) -> Iterator[Server]:
    """Run ``rerank-plugins serve`` with its defaults, but for the embedding model."""
    port = _free_port()
    command = [sys.executable, "-m", "rerank_plugins.cli", "serve", "--embedding-model", "none"]
    with _running([*command, "--port", str(port), *arguments], port, "/ready") as server:
        yield server


@contextmanager
def infinity(*arguments: str) -> Iterator[Server]:
    """Run Infinity's server on the weights of ``mini``.

    Raises:
        FileNotFoundError: If its environment is not there.
    """
    port = _free_port()
    command = [str(INFINITY), "v2", "--model-id", str(MINI), "--engine", "torch"]
    command += ["--device", "cpu", "--no-bettertransformer", "--host", "127.0.0.1"]
    with _running([*command, "--port", str(port), *arguments], port, "/health") as server:
        yield server


@contextmanager
def _running(command: Sequence[str], port: int, ready: str) -> Iterator[Server]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url + ready, log)
            yield Server(url, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    log.seek(0)
    message = f"{process.args!r} did not start: {log.read()[-4_000:].decode(errors='replace')}"
    raise RuntimeError(message)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
