"""Processes of the systems; :mod:`benchmarks.speed.worker` is the other end of the pipe."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.common import ROOT
from benchmarks.speed.systems import SYSTEMS, interpreter

_NO_NETWORK: Final = {
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
    """A system could not be loaded, failed at a request, exited or timed out."""


class SystemProcess:
    """A system in its own process; a context manager."""

    def __init__(self, python: Path, threads: int, log: Path) -> None:
        """Start the process.

        Args:
            python: The interpreter of the environment that has the system.
            threads: Number of threads, and cores, that it may use.
            log: File of its stderr.
        """
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **_NO_NETWORK, "PYTHONPATH": str(ROOT)}
        environment |= dict.fromkeys(_THREADS, str(threads))
        with log.open("w", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(  # noqa: S603
                [str(python), "-m", "benchmarks.speed.worker"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                encoding="utf-8",
            )
        if hasattr(os, "sched_setaffinity"):  # some libraries ignore the variables
            cores = sorted(os.sched_getaffinity(0))[:threads]
            os.sched_setaffinity(self._process.pid, cores)

    def send(self, op: str, timeout_s: float = 600.0, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
        """Send a request and wait for the response.

        Raises:
            SystemFailedError: If the response is an error or late.
        """
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
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
            timer.cancel()
        if not line:
            code = self._process.wait()
            message = f"{op}: the process ended (exit code {code}): {self._end_of_log()}"
            raise SystemFailedError(message)
        response: dict[str, Any] = json.loads(line)
        if "error" in response:
            raise SystemFailedError(response["error"])
        return response

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # threads of a library may keep it alive
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

    def _end_of_log(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(lines[-_LOG_LINES:])


class ProcessPool:
    """A process for each system in use, all with the same model.

    Attributes:
        versions: Versions of the packages of each loaded system.
        failed: Why a system failed, by model and system.
    """

    def __init__(self, *, device: str, threads: int, environments: Path | None, logs: Path) -> None:
        """Start no process yet.

        Args:
            device: The device of the systems.
            threads: Threads of each system.
            environments: Folder of the peers' environments.
            logs: Folder for the output of the processes.
        """
        self.device = device
        self.versions: dict[str, dict[str, str]] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self._threads = threads
        self._environments = environments
        self._logs = logs
        self._model = ""
        self._running: dict[str, SystemProcess] = {}

    def use(self, names: Iterable[str], model: Path) -> dict[str, SystemProcess]:
        """Return the processes of these systems, and end all others.

        A system that cannot be loaded is left out; :attr:`failed` has the reason.
        """
        wanted = list(names)
        if str(model) != self._model:
            self.close()
            self._model = str(model)
        for name in set(self._running) - set(wanted):
            self._running.pop(name).close()
        for name in wanted:
            if name not in self._running and (model.name, name) not in self.failed:
                self._start(name, model)
        return {name: self._running[name] for name in wanted if name in self._running}

    def drop(self, name: str, why: str) -> None:
        """End a system that failed."""
        self.failed[Path(self._model).name, name] = why
        self._running.pop(name).close()

    def close(self) -> None:
        """End all processes."""
        while self._running:
            self._running.popitem()[1].close()

    def __enter__(self) -> ProcessPool:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self.close()

    def _start(self, name: str, model: Path) -> None:
        system = SYSTEMS[name]
        log = self._logs / f"{model.name}-{name}.log"
        process = SystemProcess(interpreter(system, self._environments), self._threads, log)
        self._running[name] = process
        dtype = system.dtype_on(self.device)
        try:
            response = process.send(
                "load",
                system=f"benchmarks.speed.peers:{system.target}",
                model=str(model),
                device=self.device,
                dtype=dtype,
                settings=dict(system.settings),
                packages=list(system.packages),
            )
        except SystemFailedError as error:
            self.drop(name, str(error))
            return
        self.versions[name] = response["versions"]
