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
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.decoder import save_model
from benchmarks.environment import ROOT, environment
from benchmarks.tables import RESULTS
from rerank_plugins.backends._mini import cross_encoder_folder

_FIELDS: Final = ("first_score_s", "warm_ms", "resident_mib", "peak_mib")


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
        encoder = str(cross_encoder_folder())
        ways = [("mini", encoder, backend) for backend in ("torch", "sbert")]
        if find_spec("FlagEmbedding") is not None:
            ways.append(("mini", encoder, "flag"))
        ways += [("random Qwen3", decoder, backend) for backend in ("decoder", "sbert")]
        rows: list[dict[str, Any]] = [{"model": name, "backend": way} for name, _, way in ways]
        for _ in range(rounds):
            for row, (_, model, backend) in zip(rows, ways, strict=True):
                found = _apart({"model": model, "backend": backend}, documents, repeats)
                for field in _FIELDS:
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


def backends_table(results: dict[str, Any]) -> str:
    """Return the table as Markdown, with how it was measured below it."""
    lines = [
        "| model | backend | first score | 20 passages, warm | memory | at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        first, warm, memory, peak = (median(row[field]) for field in _FIELDS)
        lines.append(
            f"| {row['model']} | `{row['backend']}` | {first:.1f} s | {warm:.0f} ms "
            f"| {memory:.0f} MiB | {peak:.0f} MiB |"
        )
    about = results["environment"]
    shape = results["decoder"]
    return "\n".join(
        [
            *lines,
            "",
            (
                f"From a bare interpreter to the first score, imports included; medians of "
                f"{results['rounds']} processes that take turns, float32, "
                f"{results['documents']} passages a request, on {about['cores']} cores of "
                f"{about['cpu']}; commit {about['commit']}. The random decoder has "
                f"{shape['layers']} layers of width {shape['width']}. `python -m benchmarks.backends` makes it anew."
            ),
        ]
    )


def main() -> None:
    """Measure, and write ``benchmarks/results/backends.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"documents": 20, "repeats": 10, "rounds": 3, "width": 512, "layers": 8}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=RESULTS / "backends.json")
    options = vars(parser.parse_args())
    output: Path = options.pop("output")
    output.write_text(json.dumps(measure(**options), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
