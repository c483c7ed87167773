"""Makes golden scores and measures every way against them: ``python -m benchmarks.golden``.

Writes ``tests/data/golden.json`` and ``results/golden.json``; ``python -m benchmarks.tables`` then
renews the table in ``docs/reliability.md``. Run it whenever the weights of ``mini`` change.
``python -m benchmarks.golden WAY ...`` measures some ways only, against the scores that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environment import ROOT, environment
from benchmarks.golden.pairs import Golden, make, read
from benchmarks.golden.ways import WAYS, compare
from rerank_plugins.errors import ConfigurationError

RESULTS: Final = ROOT / "benchmarks" / "results" / "golden.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make both files, or measure some ways anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help="; ".join(WAYS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.ways) - WAYS.keys()
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such way; there are {'; '.join(WAYS)}")
    if not chosen.ways:
        make()
    golden = read()
    for name in chosen.ways or WAYS:
        found = measure(name, golden)
        store(chosen.output, name, found, golden)
        sys.stdout.write(f"{name}: {json.dumps(found)}\n")
        sys.stdout.flush()


def measure(name: str, golden: Golden) -> dict[str, Any]:
    """Return how far a way is from the golden scores, or that this machine cannot go it."""
    way = WAYS[name]
    try:
        with way.opened() as score:
            found = compare(score(golden.pairs), golden)
    except ConfigurationError as error:
        return {"refused": str(error)}
    return found | {"allowed_difference": way.difference, "allowed_tau": way.tau}


def store(file: Path, name: str, found: dict[str, Any], golden: Golden) -> None:
    """Put what was found of one way into the file."""
    known = json.loads(file.read_text(encoding="utf-8"))["ways"] if file.is_file() else {}
    ways = known | {name: found}
    results = {
        "pairs": len(golden.pairs),
        "questions": int(golden.groups.max()) + 1,
        "lowest": float(golden.scores.min()),
        "highest": float(golden.scores.max()),
        "ways": {one: ways[one] for one in WAYS if one in ways},
        "environment": environment(),
    }
    file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
