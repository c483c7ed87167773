"""Program that loads the model folders of its standard input, with limited memory.

For each folder it prints a line of JSON: the scores or the error, and forbidden events such as an
opened pickle. If a folder ends the process, the reader of the lines sees the end of the output.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np

from rerank_plugins import BiEncoder, DecoderSpec, Reranker
from rerank_plugins.backends.model_specs import DecoderFamily
from rerank_plugins.errors import RerankError

ROOM: Final = 2**30
"""Bytes of address space in addition to those of a process with loaded models."""

PAIRS: Final = [
    ("who wrote faust", "Goethe wrote it"), ("rain", ""), ("a", "he " * 600),
    ("who wrote faust", "he " * 40),
]  # fmt: skip
_EVENTS: Final = ("pickle.find_class", "subprocess.Popen", "os.system", "socket.connect")
_PICKLES: Final = (".bin", ".pt", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5")
_FAMILIES: Final = get_args(DecoderFamily)

_forbidden: list[str] = []


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        _forbidden.append(f"{event} {arguments!r:.200}")
    elif event == "open" and str(arguments[0]).endswith(_PICKLES):
        _forbidden.append(f"open {arguments[0]}")


def load(kind: str, folder: str) -> dict[str, Any]:
    """Load a model and return its scores or its error.

    Args:
        kind: ``"cross-encoder"``, ``"bi-encoder"`` or the family of a decoder.
        folder: Folder of the model.
    """
    try:
        family = cast("DecoderFamily", kind)
        model = DecoderSpec(folder, family=family) if kind in _FAMILIES else folder
        if kind == "bi-encoder":
            with BiEncoder(folder, device="cpu", dtype="float32") as encoder:
                return {
                    "values": encoder.encode_document([document for _, document in PAIRS]).tolist()
                }
        with Reranker(model, device="cpu", dtype="float32") as reranker:
            single = [reranker.score([pair])[0] for pair in PAIRS]
            scores = reranker.score(PAIRS)
        assert np.allclose(single, scores, rtol=1e-3, atol=1e-3), "depends on the batch"
        return {"values": scores.tolist()}
    except RerankError as error:
        return {"error": type(error).__name__, "message": str(error)[:2_000]}
    except BaseException as error:  # noqa: BLE001  (an error that should have been mapped)
        return {"error": f"foreign: {type(error).__name__}", "message": str(error)[:2_000]}


def main() -> None:
    """Load the valid folders, limit the memory, then load the folders of the standard input."""
    for kind, _, folder in (argument.partition("=") for argument in sys.argv[1:]):
        assert "values" in load(kind, folder)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(_record)
    # Libraries print to the standard output, so the results go to a copy of it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        _forbidden.clear()
        answer = load(**json.loads(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = {**answer, "forbidden": _forbidden, "peak_mb": peak / 1024}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
