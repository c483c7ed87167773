"""Makes golden scores and measures every way against them: ``python -m benchmarks.golden``.

Writes ``tests/data/golden.json`` and ``results/golden.json``; ``python -m benchmarks.tables`` then
renews the table in ``docs/reliability.md``. Run it whenever the weights of ``mini`` change.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.environment import ROOT, environment
from benchmarks.golden.pairs import make, read
from benchmarks.golden.ways import WAYS, compare
from rerank_plugins.errors import ConfigurationError


def main() -> None:
    """Make both files."""
    make()
    golden = read()
    ways: dict[str, Any] = {}
    for name, way in WAYS.items():
        try:
            with way.opened() as score:
                found = compare(score(golden.pairs), golden)
        except ConfigurationError as error:  # what this machine cannot compute
            ways[name] = {"refused": str(error)}
        else:
            allowed = {"allowed_difference": way.difference, "allowed_tau": way.tau}
            ways[name] = found | allowed
        sys.stdout.write(f"{name}: {json.dumps(ways[name])}\n")
    results = {
        "pairs": len(golden.pairs),
        "questions": int(golden.groups.max()) + 1,
        "lowest": float(golden.scores.min()),
        "highest": float(golden.scores.max()),
        "ways": ways,
        "environment": environment(),
    }
    file = ROOT / "benchmarks" / "results" / "golden.json"
    file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
