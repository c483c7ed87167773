"""Runs the core's tests on a random sample of mutants: ``python -m supply.mutants --sample 150``.

mutmut (settings in ``pyproject.toml``) makes small changes in ``rerank_plugins/core``, each of
which some quick test of the core should notice. Writes ``benchmarks/results/mutants.json``;
``supply/survivors.json`` says of each survivor that was read why it cannot be killed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from mutmut.stats import status_by_exit_code
from scipy.stats import binomtest

from benchmarks.environment import commit

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "mutants.json"
EXPLAINED: Final = Path(__file__).parent / "survivors.json"
_MADE: Final = ROOT / "mutants" / "rerank_plugins" / "core"
_FIRST: Final = "rerank_plugins.core.ordering.x_check_scores__mutmut_1"
_KILLED: Final = ("killed", "timeout", "segfault")


def exit_codes(folder: Path = _MADE) -> dict[str, int | None]:
    """Return the exit code of the tests for every mutant; None if it was not tried."""
    found: dict[str, int | None] = {}
    for file in sorted(folder.rglob("*.meta")):
        found |= json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def summary(codes: dict[str, int | None], explained: dict[str, str]) -> dict[str, Any]:
    """Return the figures of a sample: counts, the share that was killed, and who survived.

    The interval is Wilson's for a share, with 95% confidence.
    """
    status = {name: status_by_exit_code[code] for name, code in codes.items()}
    counts = Counter(status.values())
    killed = sum(counts[one] for one in _KILLED)
    interval = binomtest(killed, len(codes)).proportion_ci(method="wilson")
    survivors = sorted(name for name, one in status.items() if one not in _KILLED)
    return {
        "sample": len(codes),
        "outcomes": dict(sorted(counts.items())),
        "killed_share": killed / len(codes),
        "interval": [float(interval.low), float(interval.high)],
        "survivors": {name: explained.get(name, "") for name in survivors},
    }


def _mutmut(names: list[str], children: int) -> None:
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children), *names]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603


def main(
    *,
    sample: Annotated[int, typer.Option(help="How many mutants.")] = 150,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    children: Annotated[int, typer.Option(help="Processes at once.")] = 2,
) -> None:
    """Try a sample and write the figures."""
    _mutmut([_FIRST], children)  # makes all mutants, and learns which test runs what
    everything = sorted(exit_codes())
    chosen = random.Random(seed).sample(everything, sample)  # noqa: S311
    _mutmut(chosen, children)
    codes = exit_codes()
    explained = json.loads(EXPLAINED.read_text(encoding="utf-8"))
    found = {
        "mutants": len(everything),
        "seed": seed,
        **summary({name: codes[name] for name in chosen}, explained),
        "commit": commit(),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"  # mutmut's names have letters
    RESULTS.write_text(text, encoding="utf-8")
    typer.echo(f"{found['killed_share']:.1%} of {sample} mutants were killed")


if __name__ == "__main__":
    typer.run(main)
