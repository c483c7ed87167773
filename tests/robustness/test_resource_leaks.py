"""Tests of the hooks that fail a test for the resources it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAD = """
import asyncio, concurrent.futures, socket, threading
import pytest
from tests.helpers import resource_leaks
resource_leaks.GRACE_S = 0.3
kept = []
"""

LEAKS = {
    "threads": """
def test_it():
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
""",
    "threads of a pool": """
def test_it():
    kept.append(concurrent.futures.ThreadPoolExecutor(1))
    kept[-1].submit(int)
""",
    "futures": """
def test_it():
    kept.append(concurrent.futures.Future())
""",
    "sockets": """
def test_it():
    kept.append(socket.socket())
""",
    "tasks": """
async def test_it():
    kept.append(asyncio.create_task(asyncio.sleep(60)))
""",
}
"""Tests that leave a resource, by the resource that the failure names."""

CLEAN = """
def ends():
    threading.Event().wait(0.05)

def test_it():
    threading.Thread(target=ends).start()
    concurrent.futures.Future()
    wait = threading.Event().wait
    ended = concurrent.futures.ThreadPoolExecutor(1, initializer=wait, initargs=(1,))
    ended.submit(int)
    ended.shutdown(wait=False, cancel_futures=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert pool.submit(int, "3").result() == 3
    with socket.socket():
        pass

async def test_tasks():
    await asyncio.create_task(asyncio.sleep(0))
    await asyncio.to_thread(int)
"""


def run(folder: Path, *files: Path) -> str:
    options = (
        "-q -p tests.helpers.resource_leaks -p no:cacheprovider --import-mode=importlib "
        "-o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function --rootdir"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", *options.split(), str(folder), *map(str, files)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_leaks_fail_their_test_and_clean_tests_pass(tmp_path: Path) -> None:
    files = []
    for kind, text in {**LEAKS, "nothing": CLEAN}.items():
        files.append(tmp_path / f"test_{kind.replace(' ', '_')}.py")
        files[-1].write_text(HEAD + text, "utf-8")
    output = run(tmp_path, *files)
    for kind in LEAKS:
        assert f"the test leaves {kind.partition(' ')[0]}" in output, output
    assert f"{len(LEAKS) + 2} passed, {len(LEAKS)} errors" in output, output
