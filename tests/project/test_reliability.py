"""The developer pages and SECURITY.md name files and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rerank_plugins"
PAGES = sorted((ROOT / "docs" / "dev").rglob("*.md"))
PAGE = ROOT / "docs" / "dev" / "reliability.md"
ARCHITECTURE = ROOT / "docs" / "dev" / "architecture.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
PATH = re.compile(r"`(\w+/[\w./]*)(?:::\w+)?`")


def rows() -> list[str]:
    failures = PAGE.read_text("utf-8").split("\n## ")[1]
    lines = [line for line in failures.splitlines() if line.startswith("|")]
    assert len(lines) > 20
    return lines[2:]


def names_in(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name[:5] == "test_"
    }


def test_every_row_names_tests_that_exist() -> None:
    for row in rows():
        fault, seen, kept, shown = (cell.strip() for cell in row.strip("|").split(" | "))
        assert all((fault, seen, kept)), row
        named = NAMED.findall(shown)
        assert named, f"no test shows: {fault}"
        for file, name in named:
            assert name in names_in(ROOT / file), f"{file} has no {name}"


def test_every_file_of_faults_is_in_the_table() -> None:
    named = {file for row in rows() for file, _ in NAMED.findall(row)}
    for file in (ROOT / "tests" / "robustness" / "faults").glob("test_*.py"):
        assert file.relative_to(ROOT).as_posix() in named


def test_every_attack_names_a_test_that_exists() -> None:
    named = NAMED.findall((ROOT / "SECURITY.md").read_text("utf-8"))
    assert len(named) > 15
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no {name}"
    attacks = {name for file, name in named if file == "tests/serving/test_attacks.py"}
    assert attacks == names_in(ROOT / "tests" / "serving" / "test_attacks.py")


def test_every_path_of_the_developer_pages_exists() -> None:
    top_level = {path.name for root in (ROOT, PACKAGE) for path in root.iterdir()}
    for page in PAGES:
        for path in PATH.findall(page.read_text("utf-8")):
            if path.partition("/")[0] in top_level:
                assert any((root / path).exists() for root in (ROOT, PACKAGE)), f"{page}: {path}"


def test_the_layout_lists_every_module_of_engine_core_and_backends() -> None:
    layout = ARCHITECTURE.read_text("utf-8").partition("## Layout")[2].split("```")[1]
    for folder in ("engine", "core", "backends"):
        block = layout.partition(f"\n  {folder}/\n")[2].partition("\n  langchain/")[0]
        block = re.split(r"\n  (?=\w)", block)[0]
        listed = {line.split()[0] for line in block.splitlines() if ".py" in line}
        modules = {path.name for path in (PACKAGE / folder).glob("*.py")}
        assert listed | {"__init__.py"} == modules | {"__init__.py"}
