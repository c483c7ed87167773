"""The table of tested versions in ``docs/compatibility.md``."""

from __future__ import annotations

from typing import Any


def version_table(found: dict[str, Any]) -> str:
    """Return a column for each tested environment as Markdown."""
    head = " | ".join(found)
    lines = [f"| | {head} |", "| --- |" + " --- |" * len(found)]
    lines.append(_line("Python", [one["python"] for one in found.values()]))
    names = dict.fromkeys(name for one in found.values() for name in one["packages"])
    lines += [
        _line(name, [one["packages"].get(name, "") for one in found.values()]) for name in names
    ]
    lines += [
        _line(f"tests {what}", [str(one["tests"][what]) for one in found.values()])
        for what in ("passed", "failed", "skipped")
    ]
    lines.append(_line("commit", [one["commit"] for one in found.values()]))
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"
