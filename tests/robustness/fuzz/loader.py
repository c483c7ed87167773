"""Loads model folders whose paths come on standard input, in a process with bounded memory.

Answers each with a line of JSON: scores, or the error, and what was opened meanwhile that
should not be. Whatever kills this process is seen by who reads the lines.
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
"""Bytes of address space beyond what a loaded model has."""

PAIRS: Final = [
    ("who wrote faust", "Goethe wrote it"), ("rain", ""), ("a", "he " * 600),
    ("who wrote faust", "he " * 40),
]  # fmt: skip
_EVENTS: Final = ("pickle.find_class", "subprocess.Popen", "os.system", "socket.connect")
_PICKLES: Final = (".bin", ".pt", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5")
_FAMILIES: Final = get_args(DecoderFamily)

_seen: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        _seen.append(f"{event} {arguments!r:.200}")
    elif event == "open" and str(arguments[0]).endswith(_PICKLES):
        _seen.append(f"open {arguments[0]}")


def load(kind: str, folder: str) -> dict[str, Any]:
    """Return what becomes of a folder.

    Args:
        kind: ``"cross-encoder"``, ``"bi-encoder"``, or a decoder's family.
        folder: The model.
    """
    try:
        family = cast("DecoderFamily", kind)
        model = DecoderSpec(folder, family=family) if kind in _FAMILIES else folder
        if kind == "bi-encoder":
            with BiEncoder(folder, device="cpu", dtype="float32") as encoder:
                return {"values": encoder.encode_document([one for _, one in PAIRS]).tolist()}
        with Reranker(model, device="cpu", dtype="float32") as reranker:
            alone = [reranker.score([pair])[0] for pair in PAIRS]
            together = reranker.score(PAIRS)
        assert np.allclose(alone, together, rtol=1e-3, atol=1e-3), "depends on the batch"
        return {"values": together.tolist()}
    except RerankError as error:
        return {"error": type(error).__name__, "message": str(error)[:2_000]}
    except BaseException as error:  # noqa: BLE001  (the finding: it should have been mapped)
        return {"error": f"foreign: {type(error).__name__}", "message": str(error)[:2_000]}


def main() -> None:
    """Load the sound folders, bound the memory, and then load what is asked for."""
    for kind, _, folder in (one.partition("=") for one in sys.argv[1:]):
        assert "values" in load(kind, folder)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    bound = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    sys.addaudithook(_note)
    # Libraries print what they like; the answers go where nobody else writes.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        _seen.clear()
        answer = load(**json.loads(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = {**answer, "seen": _seen, "peak_mb": peak / 1024}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
