"""The log of a run, as JSON."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from rerank_plugins.evaluation.files import write_bytes
from training.packed import NAME, Packed
from training.settings import Settings


class Journal:
    """One file for each run; a run that goes on later writes another one."""

    def __init__(self, folder: Path, settings: Settings, packed: Packed, prepared: Path) -> None:
        """Choose the next free number.

        Args:
            folder: Of the runs.
            settings: The configuration.
            packed: The lists that are trained on.
            prepared: The folder that they were read from.
        """
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(one.stem) for one in folder.glob("[0-9]*.json")), default=0)
        self.file = folder / f"{number:04}.json"
        self._rows: dict[str, Any] = {
            "settings": settings.model_dump(mode="json"),
            "input": {
                "sha256": sha256((prepared / NAME).read_bytes()).hexdigest(),
                "lists": len(packed),
                "held_out": int(packed.held_out.sum()),
            },
            "environment": environment(),
            "steps": [],
            "validation": [],
        }

    def note(self, part: str, row: dict[str, Any]) -> None:
        """Add a row to ``steps`` or ``validation``."""
        self._rows[part].append(row)

    def set(self, name: str, value: Any) -> None:  # noqa: ANN401  (any JSON)
        """Keep a value."""
        self._rows[name] = value

    def save(self) -> None:
        """Write the file at once."""
        write_bytes(self.file, (json.dumps(self._rows, indent=1) + "\n").encode())
