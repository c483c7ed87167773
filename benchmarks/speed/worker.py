"""A system in its own process: ``python -m benchmarks.speed.worker``.

Reads requests from stdin and writes responses to stdout, one JSON object per line. Only the
standard library is imported before the system, because the worker also runs in environments
without this package.

===========  ================================================  ===============================
``op``       fields                                            response
===========  ================================================  ===============================
``load``     ``system`` (``module:class``), ``model``,         ``seconds``, ``versions``
             ``device``, ``dtype``, ``settings``,
             ``packages``
``score``    ``query``, ``texts``; ``trace``: count tokens     ``seconds``, ``scores``; with
             instead of timing                                 ``trace`` ``tokens`` (or null)
``memory``   ``reset``: begin a new peak                       ``peak_mib``
===========  ================================================  ===============================

The response to a request that fails has ``error``; the worker continues.
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


class Worker:
    """Handles the requests to one system."""

    def __init__(self) -> None:
        """Start without a system."""
        self._system: Any = None

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response to a request."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load,
            "score": self.score,
            "memory": self.memory,
        }
        fields = dict(request)
        try:
            return operations[fields.pop("op")](**fields)
        except Exception as error:  # noqa: BLE001  (any peer, any error)
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
        """Score each text, as a user of the library does."""
        inputs = self._system.inputs(query, texts)
        gc.collect()  # not while it is timed
        with _counted_tokens() if trace else contextlib.nullcontext() as counted:
            start = perf_counter()
            output = self._system.call(inputs)
            seconds = perf_counter() - start
        scores = [float(score) for score in self._system.scores(output)]
        response: dict[str, Any] = {"seconds": seconds, "scores": scores}
        if trace:
            response["tokens"] = sum(counted) if counted else None
        return response

    def memory(self, *, reset: bool = False) -> dict[str, Any]:
        """Return the highest resident memory since the last reset, and on CUDA the device's."""
        response: dict[str, Any] = {"peak_mib": _peak_mib()}
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            response["device_mib"] = torch.cuda.max_memory_allocated() / _MIB
            if reset:
                torch.cuda.reset_peak_memory_stats()
        if reset:
            with contextlib.suppress(OSError):  # otherwise the peak of the whole process
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return response


@contextlib.contextmanager
def _counted_tokens() -> Iterator[list[int]]:
    """Count the tokens that torch models compute, padding included.

    They are counted at the output of the embedding layers of transformers' models.
    """
    counts: list[int] = []
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield counts
        return

    def count_tokens(module: Any, _: Any, output: Any) -> None:  # noqa: ANN401  (torch's own types)
        if type(module).__name__.endswith("Embeddings") and output.dim() == _TOKEN_DIMENSIONS:
            counts.append(output.shape[0] * output.shape[1])

    handle = torch.nn.modules.module.register_module_forward_hook(count_tokens)
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


def serve(requests: Iterable[str], responses: TextIO) -> None:
    """Handle requests until the input ends."""
    worker = Worker()
    for line in requests:
        responses.write(json.dumps(worker.handle(json.loads(line))) + "\n")
        responses.flush()


def main() -> None:
    """Respond on stdout; the output of libraries goes to stderr."""
    responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, responses)


if __name__ == "__main__":
    main()
