"""The tables of faults and attacks name tests that exist; every test of a fault is named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[str]:
    faults = PAGE.read_text("utf-8").partition("\n## ")[0]
    lines = [one for one in faults.splitlines() if one.startswith("|")]
    assert len(lines) > 20
    return lines[2:]


def names_in(file: Path) -> set[str]:
    return {
        one.name
        for one in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)) and one.name[:5] == "test_"
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
    for file in (ROOT / "tests" / "faults").glob("test_*.py"):
        assert file.relative_to(ROOT).as_posix() in named


def test_every_attack_names_a_test_that_exists() -> None:
    named = NAMED.findall((ROOT / "SECURITY.md").read_text("utf-8"))
    assert len(named) > 15
    for file, name in named:
        assert name in names_in(ROOT / file), f"{file} has no {name}"
    attacks = {name for file, name in named if file == "tests/serving/test_attacks.py"}
    assert attacks == names_in(ROOT / "tests" / "serving" / "test_attacks.py")
