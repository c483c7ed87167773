"""One system in a process of its own: ``python -m benchmarks.speed.child``.

Reads requests from stdin and writes answers to stdout, JSON, one a line. Nothing but the
standard library is imported before the system, because this also runs in environments that
have neither this package nor what it needs.

===========  ================================================  ===============================
``op``       fields                                            answer
===========  ================================================  ===============================
``load``     ``system`` (``module:class``), ``model``,         ``seconds``, ``versions``
             ``device``, ``dtype``, ``settings``,
             ``packages``
``score``    ``query``, ``texts``; ``trace``: count tokens     ``seconds``, ``scores``; with
             instead of timing                                 ``trace`` ``tokens`` (or null)
``memory``   ``reset``: begin a new peak                       ``peak_mib``
===========  ================================================  ===============================

A request that fails is answered by ``error``, and the next one is read.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TextIO

_MIB: Final = 2**20
_TOKEN_DIMENSIONS: Final = 3


class Child:
    """Answers requests for one system."""

    def __init__(self) -> None:
        """Begin without a system."""
        self._system: Any = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request asks for."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "score": self.score,
            "memory": self.memory,
        }
        fields = dict(request)
        try:
            return operations[fields.pop("op")](**fields)
        except Exception as error:  # noqa: BLE001  (every peer fails in its own way)
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def load(
        self,
        *,
        system: str,
        model: str,
        device: str,
        dtype: str,
        settings: Mapping[str, Any],
        packages: Iterable[str],
    ) -> dict[str, Any]:
        """Import the system's library and load the model."""
        module, name = system.split(":")
        start = perf_counter()
        make = getattr(importlib.import_module(module), name)
        self._system = make(model=model, device=device, dtype=dtype, **settings)
        return {
            "seconds": perf_counter() - start,
            "versions": {package: version(package) for package in packages},
        }

    def score(self, *, query: str, texts: list[str], trace: bool = False) -> dict[str, Any]:
        """Score each text, as a user of the library would."""
        inputs = self._system.inputs(query, texts)
        gc.collect()  # not while the clock runs
        with _counted_tokens() if trace else contextlib.nullcontext() as counted:
            start = perf_counter()
            output = self._system.call(inputs)
            seconds = perf_counter() - start
        scores = [float(score) for score in self._system.scores(output)]
        found: dict[str, Any] = {"seconds": seconds, "scores": scores}
        if trace:
            found["tokens"] = sum(counted) if counted else None
        return found

    def memory(self, *, reset: bool = False) -> dict[str, Any]:
        """Return the highest resident memory since the last reset, and on CUDA the device's."""
        found: dict[str, Any] = {"peak_mib": _peak_mib()}
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            found["device_mib"] = torch.cuda.max_memory_allocated() / _MIB
            if reset:
                torch.cuda.reset_peak_memory_stats()
        if reset:
            with contextlib.suppress(OSError):  # without it the peak is that of the whole life
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return found


@contextlib.contextmanager
def _counted_tokens() -> Iterator[list[int]]:
    """Count the tokens that torch models are given, padding included.

    They are what comes out of the embedding layers of transformers' models.
    """
    counts: list[int] = []
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield counts
        return

    def seen(module: Any, _: Any, output: Any) -> None:  # noqa: ANN401  (torch's own types)
        if type(module).__name__.endswith("Embeddings") and output.dim() == _TOKEN_DIMENSIONS:
            counts.append(output.shape[0] * output.shape[1])

    handle = torch.nn.modules.module.register_module_forward_hook(seen)
    try:
        yield counts
    finally:
        handle.remove()


def _peak_mib() -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / _MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests until there are no more."""
    child = Child()
    for line in requests:
        answers.write(json.dumps(child.answer(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Answer on stdout; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
