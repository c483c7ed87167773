"""Child process that loads model folders, and a watch on files that it must not open."""

from __future__ import annotations

import ctypes
import json
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from tests.robustness.fuzz.loader import ROOM

ROOT: Final = Path(__file__).parents[3]
TIMEOUT_S: Final = 60.0
_NONBLOCK: Final = 0o4000
_OPENED: Final = 0x20
_NO_MEMORY: Final = ("allocate", "bad_alloc", "MemoryError", "not enough memory")


class Watch:
    """Detects whether any process or library opens a file of a folder (inotify)."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = library.inotify_init1(_NONBLOCK)
        assert self._descriptor >= 0
        assert library.inotify_add_watch(self._descriptor, os.fsencode(folder), _OPENED) >= 0

    def opened(self) -> bool:
        """Return whether a file has been opened since the last call."""
        opened = False
        while select.select([self._descriptor], [], [], 0)[0]:
            os.read(self._descriptor, 65_536)
            opened = True
        return opened

    def close(self) -> None:
        os.close(self._descriptor)


class Loader:
    """Child process; one that ends or hangs fails the test and is replaced for the next folder."""

    def __init__(self, sound: Mapping[str, Path], outside: Path) -> None:
        """Start no process yet.

        Args:
            sound: A valid model of each kind, loaded before the memory is limited.
            outside: Folder whose files must not be opened.
        """
        self._sound = [f"{kind}={folder}" for kind, folder in sound.items()]
        self._process: subprocess.Popen[str] | None = None
        self._first_peak_mb = 0.0
        self._watch = Watch(outside)
        assert not self._watch.opened()

    def load(self, folder: Path, kind: str = "cross-encoder") -> dict[str, Any]:
        """Load a folder and return the scores or the error, both checked."""
        answer = self._request({"folder": str(folder), "kind": kind})
        self._first_peak_mb = self._first_peak_mb or answer["peak_mb"]
        message = answer.get("message", "")
        assert not answer["forbidden"], answer
        assert not self._watch.opened(), f"a file outside of the folder was opened: {answer}"
        assert not any(word in message for word in _NO_MEMORY), f"out of memory: {message}"
        assert answer["peak_mb"] - self._first_peak_mb < ROOM / 2**20, answer
        if "values" in answer:
            numbers = answer["values"]
            flat = [
                number for row in numbers for number in (row if isinstance(row, list) else [row])
            ]
            assert flat
            assert all(map(math.isfinite, flat))
        else:
            assert answer["error"] in ("ModelLoadError", "ConfigurationError"), answer
            assert message
        return answer

    def close(self) -> None:
        self._watch.close()
        self._end()

    def _request(self, request: dict[str, str]) -> dict[str, Any]:
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read_line(process, TIMEOUT_S))
        return answer

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.robustness.fuzz.loader", *self._sound]
        variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env={**os.environ, **variables}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._read_line(self._process, 200.0) == "ready\n"
        return self._process

    def _read_line(self, process: subprocess.Popen[str], seconds: float) -> str:
        stream: IO[str] | None = process.stdout
        assert stream is not None
        line = stream.readline() if select.select([stream], [], [], seconds)[0] else ""
        if not line:
            self._end()
            message = f"the process ended, or hung for {seconds} s (status {process.returncode})"
            raise AssertionError(message)
        return line

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def load_changed(
    loader: Loader, sound: Path, files: Mapping[str, bytes], kind: str
) -> dict[str, Any]:
    """Load a copy of a valid model with some files replaced or added."""
    folder = Path(tempfile.mkdtemp(dir=sound.parent))
    try:
        shutil.copytree(sound, folder, dirs_exist_ok=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return loader.load(folder, kind)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
