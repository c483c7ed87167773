"""The table of mutants in ``docs/reliability.md``."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.rows import Row, target_lines

TARGET: Final = 0.85


def mutant_table(found: dict[str, Any]) -> str:
    """Return the figures, and each survivor with its reason, as Markdown."""
    low, high = found["interval"]
    share, survivors = found["killed_share"], found["survivors"]
    counts = ", ".join(f"{count} {name}" for name, count in found["outcomes"].items())
    row = Row(
        f"mutants of `rerank_plugins/core` killed, of a random {found['sample']} of "
        f"{found['mutants']} (seed {found['seed']})",
        f"at least {TARGET:.0%}",
        f"{share:.1%} ({low:.0%} to {high:.0%}); {counts}",
        share >= TARGET,
    )
    lines = [*target_lines([row]), "", "| survivor | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {why or 'not read'} |" for name, why in survivors.items()]
    return "\n".join([*lines, "", f"Commit {found['commit']}."])
