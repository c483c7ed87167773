"""A child process that loads model folders, and a watch on what it must not open."""

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
LONGEST_S: Final = 60.0
_NONBLOCK: Final = 0o4000
_OPENED: Final = 0x20
_NO_MEMORY: Final = ("allocate", "bad_alloc", "MemoryError", "not enough memory")


class Watch:
    """Says whether anybody opened a file of a folder, in whatever language (inotify)."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = library.inotify_init1(_NONBLOCK)
        assert self._descriptor >= 0
        assert library.inotify_add_watch(self._descriptor, os.fsencode(folder), _OPENED) >= 0

    def opened(self) -> bool:
        """Return whether that happened since the last question."""
        found = False
        while select.select([self._descriptor], [], [], 0)[0]:
            os.read(self._descriptor, 65_536)
            found = True
        return found

    def close(self) -> None:
        os.close(self._descriptor)


class Loader:
    """The child; one that died or hangs is a finding, and the next folder gets a new one."""

    def __init__(self, sound: Mapping[str, Path], outside: Path) -> None:
        """Start nothing yet.

        Args:
            sound: By kind, a model that is loaded before memory is bounded.
            outside: A folder of which nothing may be opened.
        """
        self._sound = [f"{kind}={folder}" for kind, folder in sound.items()]
        self._process: subprocess.Popen[str] | None = None
        self._usual_mb = 0.0
        self._watch = Watch(outside)
        assert not self._watch.opened()

    def load(self, folder: Path, kind: str = "cross-encoder") -> dict[str, Any]:
        """Return what became of a folder, having checked that nothing forbidden did."""
        answer = self._asked({"folder": str(folder), "kind": kind})
        self._usual_mb = self._usual_mb or answer["peak_mb"]
        said = answer.get("message", "")
        assert not answer["seen"], answer
        assert not self._watch.opened(), f"a file outside of the folder was opened: {answer}"
        assert not any(word in said for word in _NO_MEMORY), f"memory was asked for: {said}"
        assert answer["peak_mb"] - self._usual_mb < ROOM / 2**20, answer
        if "values" in answer:
            numbers = answer["values"]
            flat = [one for row in numbers for one in (row if isinstance(row, list) else [row])]
            assert flat
            assert all(map(math.isfinite, flat))
        else:
            assert answer["error"] in ("ModelLoadError", "ConfigurationError"), answer
            assert said
        return answer

    def close(self) -> None:
        self._watch.close()
        self._end()

    def _asked(self, request: dict[str, str]) -> dict[str, Any]:
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(process, LONGEST_S))
        return answer

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.robustness.fuzz.loader", *self._sound]
        kind = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env={**os.environ, **kind}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._line(self._process, 200.0) == "ready\n"
        return self._process

    def _line(self, process: subprocess.Popen[str], seconds: float) -> str:
        stream: IO[str] | None = process.stdout
        assert stream is not None
        line = stream.readline() if select.select([stream], [], [], seconds)[0] else ""
        if not line:
            self._end()
            message = f"the process died, or hung for {seconds} s (status {process.returncode})"
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
    """Load a sound model with some files exchanged or added; return what became of it."""
    folder = Path(tempfile.mkdtemp(dir=sound.parent))
    try:
        shutil.copytree(sound, folder, dirs_exist_ok=True)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return loader.load(folder, kind)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
