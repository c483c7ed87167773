"""The other end of :mod:`benchmarks.speed.child`: starts a system's process and asks it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import ROOT

_QUIET: Final = {
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "TRANSFORMERS_OFFLINE": "1",
}
_THREADS: Final = (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
_LOG_LINES: Final = 5


class SystemFailedError(RuntimeError):
    """A system could not be loaded, failed at a request, died or took too long."""


class SystemProcess:
    """A system in its own process; use it as a context manager, or close it."""

    def __init__(self, python: Path, threads: int, log: Path) -> None:
        """Start the process.

        Args:
            python: The interpreter of the environment that has the system.
            threads: How many threads, and cores, it may use.
            log: Where its stderr goes.
        """
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **_QUIET, "PYTHONPATH": str(ROOT)}
        environment |= dict.fromkeys(_THREADS, str(threads))
        with log.open("w", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(  # noqa: S603  (our own module)
                [str(python), "-m", "benchmarks.speed.child"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
            )
        if hasattr(os, "sched_setaffinity"):  # not every library reads the variables
            cores = sorted(os.sched_getaffinity(0))[:threads]
            os.sched_setaffinity(self._process.pid, cores)

    def ask(self, op: str, timeout_s: float = 600.0, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
        """Send a request and wait for the answer.

        Raises:
            SystemFailedError: If the answer is an error or does not come in time.
        """
        late = threading.Timer(timeout_s, self._process.kill)
        late.start()
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            message = "the process has no pipes."
            raise SystemFailedError(message)
        try:
            stdin.write(json.dumps({"op": op, **fields}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        finally:
            late.cancel()
        if not line:
            code = self._process.wait()
            message = f"{op}: the process ended (exit code {code}): {self._last_words()}"
            raise SystemFailedError(message)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SystemFailedError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # a library's own threads may keep it alive
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> SystemProcess:
        """Return the process."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(lines[-_LOG_LINES:])
