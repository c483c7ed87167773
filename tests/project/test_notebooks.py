"""Saved notebooks, and the guard that blocks their access to the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 2**20


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_the_index_links_every_notebook() -> None:
    index = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert [notebook.name[:2] for notebook in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    assert all(f"]({notebook.name})" in index for notebook in NOTEBOOKS)
    assert sum(notebook.stat().st_size for notebook in NOTEBOOKS) < MAX_BYTES


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_outputs_are_those_of_one_run_from_top_to_bottom(notebook: Path) -> None:
    code = cells(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_metadata_of_the_machine_is_removed(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["metadata"]["language_info"] == {"name": "python"}
    assert all(cell["metadata"] == {} for cell in content["cells"])
    assert "site-packages" not in notebook.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "blocked"),
    [
        ("socket.getaddrinfo('example.com', 80)", True),
        ("socket.create_connection(('192.0.2.1', 80), 0.1)", True),
        ("socket.getaddrinfo('localhost', 80)", False),
        (
            "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())",
            False,
        ),
    ],
)
def test_access_beyond_the_machine_is_blocked(code: str, blocked: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "offline")}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", f"import socket; {code}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("notebooks run without a network" in done.stderr) is blocked
    assert (done.returncode != 0) is blocked
