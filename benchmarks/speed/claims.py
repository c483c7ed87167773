"""What is claimed about cost: ``python -m benchmarks.speed.claims --data ../shared/data``.

Writes ``results/speed-claims.json``; claims that are not named keep the results they have there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.environment import ROOT, environment
from benchmarks.speed.growth import measure_growth
from benchmarks.speed.overhead import measure_overhead
from benchmarks.speed.pair_cost import measure_pair_cost
from benchmarks.speed.profiled import measure_profile
from benchmarks.speed.profiled_int8 import measure_int8_profile

RESULTS: Final = ROOT / "benchmarks" / "results" / "speed-claims.json"
CLAIMS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "overhead": measure_overhead,
    "growth": measure_growth,
    "pair_cost": measure_pair_cost,
    "profile": measure_profile,
    "profile_int8": measure_int8_profile,
}


def main(
    *,
    data: Annotated[Path, typer.Option(help="Folder of the sets, in BEIR layout.")],
    claims: Annotated[list[str] | None, typer.Argument(help=", ".join(CLAIMS))] = None,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    dtype: Annotated[str, typer.Option(help="Data type.")] = "float32",
    quick: Annotated[bool, typer.Option(help="Small sizes, a minute.")] = False,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure claims and store what was found."""
    results = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
    for name in claims or CLAIMS:
        if name not in CLAIMS:
            message = f"{name}: no such claim; there are {', '.join(CLAIMS)}"
            raise typer.BadParameter(message)
        found = CLAIMS[name](data, threads, quick=quick, dtype=dtype)
        results[name] = {**found, "quick": quick, "environment": environment()}
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        shown = {key: value for key, value in found.items() if key != "seconds"}
        typer.echo(f"{name}: {json.dumps(shown)}")


if __name__ == "__main__":
    typer.run(main)
