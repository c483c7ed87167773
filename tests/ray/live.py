"""A real Ray cluster and its processes, observed from outside."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray listens on every address
    "RAY_DEDUP_LOGS": "0",
    "RAY_TMPDIR": "/tmp",  # noqa: S108  (paths of Unix sockets must be short)
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
BUILDER = "rerank_plugins.ray:build_app"


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a cluster and yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ray.nodes"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield address
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def configuration(
    port: int, user_config: dict[str, Any] | None = None, **args: Any
) -> dict[str, Any]:
    """Return the content of a Serve configuration file."""
    changes = [] if user_config is None else [{"name": "Reranker", "user_config": user_config}]
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "rerank",
                "route_prefix": "/",
                "import_path": BUILDER,
                "args": args,
                "deployments": changes,
            }
        ],
    }


def serve_run(address: str, file: Path, config: dict[str, Any]) -> None:
    """Deploy a configuration, or update the deployment."""
    file.write_text(json.dumps(config), "utf-8")  # JSON is valid YAML
    program = shutil.which("serve", path=ENVIRONMENT["PATH"])
    assert program is not None
    command = [program, "run", "--address", address, "--non-blocking", str(file)]
    completed = subprocess.run(  # noqa: S603
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert completed.returncode == 0, completed.stderr[-2_000:]


def listening(port: int) -> set[str]:
    """Return the addresses that listen on a port, as hexadecimal numbers of the kernel."""
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text("utf-8").splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.rpartition(":")
            if state == "0A" and int(number, 16) == port:
                addresses.add(address)
    return addresses


def replicas(deployment: str) -> list[int]:
    """Return the process ids of a deployment's replicas."""
    title = f"ray::ServeReplica:rerank:{deployment}"
    processes = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # the process ended
            if line.decode(errors="replace").startswith(title):
                processes.append(int(folder.name))
    return processes


def settled(deployment: str, number: int, seconds: float) -> list[int]:
    """Wait until a deployment has had the same ``number`` of replicas for ten seconds.

    A test must not use a replica that is about to stop or to fail.
    """
    since, last = time.monotonic(), replicas(deployment)

    def is_settled() -> bool:
        nonlocal since, last
        now = replicas(deployment)
        if set(now) != set(last) or len(now) != number:
            since, last = time.monotonic(), now
        return time.monotonic() - since > 10

    assert wait_until(is_settled, seconds), (
        f"{deployment} has the replicas {last}, expected {number}"
    )
    return last


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition, and return whether it became true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return condition()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=10).is_success
    except httpx.HTTPError:
        return False
