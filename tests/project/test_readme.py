"""Every example of the documentation runs as it is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = "rerank-plugins"


class Block(NamedTuple):
    """A fenced block and the line its code begins at.

    A ``python before`` block is another package's code, which need not be installed.
    """

    language: str
    note: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1], match[2].strip(), match[3], text.count("\n", 0, match.start(3)))
        for match in BLOCK.finditer(text)
    ]


def pages_with(language: str, start: str = "") -> list[Path]:
    return [
        page
        for page in PAGES
        if any(one.language == language and one.code.startswith(start) for one in blocks(page))
    ]


def test_the_readme_has_examples() -> None:
    assert ROOT / "README.md" in pages_with("python")
    assert ROOT / "README.md" in pages_with("bash", COMMAND)


def test_blocks_of_other_packages_stand_in_one_page_and_compile() -> None:
    for page in PAGES:
        others = [one for one in blocks(page) if one.note == "before"]
        assert bool(others) == (page.stem == "migration")
        for one in others:
            compile(one.code, str(page), "exec")


HEAVY = ("performance", "scores")
"""Pages that quantize a model or score hundreds of passages."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.stem in HEAVY else [], id=page.stem)
        for page in pages_with("python")
    ],
)
def test_python_blocks_run_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.note != "before":
            # Empty lines before it make a traceback show the line of the page.
            code = compile("\n" * block.line + block.code, str(page), "exec")
            exec(code, namespace)  # noqa: S102


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", pages_with("bash", COMMAND), ids=lambda page: page.stem)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    shell = shutil.which("bash")
    assert shell is not None
    command = tmp_path / "bin" / COMMAND
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rerank_plugins.cli "$@"\n', "utf-8")
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    for block in blocks(page):
        if block.language == "bash" and block.code.startswith(COMMAND):
            done = subprocess.run(  # noqa: S603
                [shell, "-e", "-o", "pipefail", "-c", block.code],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{page}, line {block.line}: {done.stderr}"
