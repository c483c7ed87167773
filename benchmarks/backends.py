"""First score, warm latency and memory of each backend: ``python -m benchmarks.backends``.

The embedded model runs through every backend that takes an encoder, and a random decoder of
Qwen3's architecture through those for decoders; each in fresh processes, which take turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.backend_tables import FIELDS
from benchmarks.decoder import save_model
from benchmarks.environment import ROOT, environment
from rerank_plugins.backends.hub import cross_encoder_folder

OUTPUT: Final = ROOT / "benchmarks" / "results" / "backends.json"


def measure(
    *,
    documents: int = 20,
    repeats: int = 10,
    rounds: int = 3,
    width: int = 512,
    layers: int = 8,
) -> dict[str, Any]:
    """Measure each backend ``rounds`` times in processes of its own."""
    with TemporaryDirectory() as folder:
        decoder = str(save_model(Path(folder), width=width, layers=layers))
        models = {"mini": str(cross_encoder_folder()), "random Qwen3": decoder}
        ways = [
            ("mini", "torch", "float32"),
            ("mini", "openvino", "float32"),
            ("mini", "openvino", "int8"),
            ("mini", "sbert", "float32"),
        ]
        if find_spec("FlagEmbedding") is not None:
            ways.append(("mini", "flag", "float32"))
        ways += [("random Qwen3", backend, "float32") for backend in ("decoder", "sbert")]
        rows: list[dict[str, Any]] = [
            dict(zip(("model", "backend", "dtype"), way, strict=True)) for way in ways
        ]
        for _ in range(rounds):
            for row, (model, backend, dtype) in zip(rows, ways, strict=True):
                settings = {"model": models[model], "backend": backend, "dtype": dtype}
                found = _apart(settings, documents, repeats)
                for field in FIELDS:
                    row.setdefault(field, []).append(found[field])
    return {
        "environment": environment(),
        "documents": documents,
        "repeats": repeats,
        "rounds": rounds,
        "decoder": {"width": width, "layers": layers},
        "rows": rows,
    }


def _apart(settings: dict[str, Any], documents: int, repeats: int) -> dict[str, float]:
    words = (json.dumps(settings), str(documents), str(repeats))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "benchmarks.load.cold", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, and write ``benchmarks/results/backends.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"documents": 20, "repeats": 10, "rounds": 3, "width": 512, "layers": 8}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = vars(parser.parse_args())
    output: Path = options.pop("output")
    output.write_text(json.dumps(measure(**options), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
