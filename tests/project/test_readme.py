"""Runs the Python blocks and the commands of the documentation as they are printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank_plugins.engine.registry import close_engines
from tests.helpers.code_blocks import PAGES, ROOT, code_blocks

COMMAND = "rerank-plugins"
SLOW_PAGES = ("performance", "scores")
"""Pages that quantize a model or score hundreds of passages."""


def pages_with(language: str, start: str = "") -> list[Path]:
    return [
        page
        for page in PAGES
        if any(
            block.language == language and block.code.startswith(start)
            for block in code_blocks(page)
        )
    ]


def test_the_readme_has_examples() -> None:
    assert ROOT / "README.md" in pages_with("python")
    assert ROOT / "README.md" in pages_with("bash", COMMAND)


def test_code_of_other_packages_compiles_and_is_on_one_page() -> None:
    for page in PAGES:
        blocks = [block for block in code_blocks(page) if block.note == "before"]
        assert bool(blocks) == (page.stem == "migration")
        for block in blocks:
            compile(block.code, str(page), "exec")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, marks=[pytest.mark.slow] if page.stem in SLOW_PAGES else [], id=page.stem
        )
        for page in pages_with("python")
    ],
)
def test_python_blocks_run_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    close_engines()  # A page starts without the caches that earlier tests turned on.
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in code_blocks(page):
        if block.language == "python" and block.note != "before":
            # With empty lines before the code, a traceback shows the line of the page.
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
    for block in code_blocks(page):
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
