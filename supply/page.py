"""Tables between markers in the documentation."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import filled


def renew(page: Path, name: str, table: str) -> None:
    """Put a table between its markers."""
    page.write_text(filled(page.read_text(encoding="utf-8"), name, table), encoding="utf-8")
