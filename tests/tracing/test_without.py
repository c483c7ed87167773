"""Tracing without an SDK and without OpenTelemetry; names of loggers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rerank_plugins"

ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ImportError("not here")
sys.meta_path.insert(0, Absent())
"""
WORK = """
import asyncio, logging
from rerank_plugins import Reranker
from rerank_plugins._tracing import get_tracer
from rerank_plugins.testing import FakeCrossEncoder
assert "opentelemetry" not in sys.modules, "importing is cheap"
def fail(query, document):
    raise RuntimeError("no")
reranker = Reranker(fake := FakeCrossEncoder())
assert reranker.rank("red", ["blue", "red"])[0].index == 1
assert asyncio.run(reranker.arank("red", ["blue", "red"]))[0].index == 1
assert Reranker(bad := FakeCrossEncoder(fail), on_error="passthrough").rank("a", ["b"]).error
assert type(get_tracer()).__name__ == NAME
assert "torch" not in sys.modules
assert not logging.getLogger().handlers
"""


@pytest.mark.parametrize(
    ("start", "name"), [(ABSENT, "NoTracer"), ("import sys\n", "OpenTelemetryTracer")]
)
def test_nothing_happens_and_nothing_is_printed(start: str, name: str) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", f"{start}NAME = {name!r}\n{WORK}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_loggers_have_the_names_of_their_modules(file: Path) -> None:
    """Loggers of other libraries may be looked up by name, but not those of the package."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger":
            name = ast.unparse(node.args[0])
            assert not name.startswith(("'rerank_plugins", '"rerank_plugins')), f"{file}: {name}"
