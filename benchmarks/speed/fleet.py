"""The processes of all systems that take turns, started and ended as the cells need them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.speed.client import SystemFailedError, SystemProcess
from benchmarks.speed.systems import SYSTEMS, interpreter


class Fleet:
    """Keeps a process for each system that is in use, each with the same model.

    Attributes:
        loaded: What each system said about itself when it was loaded.
        failed: Why a system is out, by model and system.
    """

    def __init__(self, *, device: str, threads: int, environments: Path | None, logs: Path) -> None:
        """Start nothing yet.

        Args:
            device: Where the systems compute.
            threads: How many threads each may use.
            environments: Folder of the peers' environments.
            logs: Folder for what the processes print.
        """
        self.device = device
        self.loaded: dict[str, dict[str, Any]] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self._threads = threads
        self._environments = environments
        self._logs = logs
        self._model = ""
        self._running: dict[str, SystemProcess] = {}

    def use(self, names: Iterable[str], model: Path) -> dict[str, SystemProcess]:
        """Return the processes of these systems, and end all others.

        A system that cannot be loaded is left out; :attr:`failed` says why.
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

    def __enter__(self) -> Fleet:
        """Return the fleet."""
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
            answer = process.ask(
                "load",
                system=f"benchmarks.speed.peers.{system.target}",
                model=str(model),
                device=self.device,
                dtype=dtype,
                settings=dict(system.settings),
                packages=list(system.packages),
            )
        except SystemFailedError as error:
            self.drop(name, str(error))
            return
        self.loaded[name] = {
            "title": system.title,
            "dtype": dtype,
            "scale": system.scale,
            "note": system.note,
            "versions": answer["versions"],
        }
