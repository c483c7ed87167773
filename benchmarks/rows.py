"""Tables of what was aimed at, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table."""

    question: str
    target: str
    measured: str
    met: bool | None = None


def target_lines(rows: Iterable[Row]) -> list[str]:
    """Return the lines of the table as Markdown."""
    lines = ["| What | Target | Measured | Met |", "| --- | --- | --- | --- |"]
    for row in rows:
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        lines.append(f"| {row.question} | {row.target} | {row.measured} | {met} |")
    return lines
