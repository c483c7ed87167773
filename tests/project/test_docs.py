"""Paths, links, tests and modules that the documentation names; its length and its words."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "rerank_plugins"
DOCS: Final = ROOT / "docs"
PAGES: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "notebooks" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
ARCHITECTURE: Final = DOCS / "dev" / "architecture.md"
FAILURES: Final = DOCS / "dev" / "reliability.md"

BLOCK: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")
PATH: Final = re.compile(r"`([\w.-]+/[\w./-]*)(?:::\w+)?`")
TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")

GENERATED: Final = {"training/runs"}
"""Paths that commands create and git ignores."""

MAX_WORDS: Final = {"README.md": 800, "docs": 20_000}
"""Words, code included and borders of tables excluded; of ``docs`` without the API reference."""

ODD_WORDS: Final = (
    "anew", "hitherto", "thereof", "whoever", "whomever", "whosoever", "so many",
    "a say", "tokenis\\w+", "quantis\\w+", "normalis\\w+", "optimis\\w+",
    "label[l]\\w+", "beha[v]iour\\w*", "neighbo[u]r\\w*", "hono[u]r\\w*", "colo[u]r\\w*",
)  # fmt: skip
"""Words that plain US English does not need: archaic, roundabout or in British spelling."""
ODD_WORD: Final = re.compile(rf"\b(?:{'|'.join(ODD_WORDS)})\b", re.IGNORECASE)


def count_words(page: Path) -> int:
    words = page.read_text("utf-8").split()
    return sum(any(character.isalnum() for character in word) for word in words)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def names_of_tests(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
    }


def failure_rows() -> list[list[str]]:
    """Return the cells of each row of the table of failures."""
    section = FAILURES.read_text("utf-8").partition("\n## Failures\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 20
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_named_paths_exist(page: Path) -> None:
    top_level = {path.name for folder in (ROOT, PACKAGE) for path in folder.iterdir()}
    paths = [
        path
        for path in PATH.findall(BLOCK.sub("", page.read_text("utf-8")))
        if path.partition("/")[0] in top_level and path.rstrip("/") not in GENERATED
    ]
    missing = [
        path for path in paths if not any((folder / path).exists() for folder in (ROOT, PACKAGE))
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_linked_files_exist(page: Path) -> None:
    links = LINK.findall(BLOCK.sub("", page.read_text("utf-8")))
    files = {link.partition("#")[0] for link in links} - {""}
    assert [file for file in sorted(files) if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_named_tests_exist(page: Path) -> None:
    named = TEST.findall(page.read_text("utf-8"))
    assert [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists() or name not in names_of_tests(ROOT / file)
    ] == []


def test_every_failure_has_an_effect_and_a_test() -> None:
    for row in failure_rows():
        failure, effect, unaffected, tests = row
        assert all((failure, effect, unaffected)), row
        assert TEST.findall(tests), f"no test of {failure}"


def test_every_test_file_of_faults_is_in_the_table_of_failures() -> None:
    named = {file for row in failure_rows() for file, _ in TEST.findall(row[-1])}
    for file in (ROOT / "tests" / "robustness" / "faults").glob("test_*.py"):
        assert file.relative_to(ROOT).as_posix() in named


def test_security_names_every_test_of_attacks() -> None:
    named = TEST.findall((ROOT / "SECURITY.md").read_text("utf-8"))
    assert len(named) > 15
    attacks = "tests/serving/test_attacks.py"
    assert {name for file, name in named if file == attacks} == names_of_tests(ROOT / attacks)


def test_the_layout_lists_every_module_of_engine_core_and_backends() -> None:
    layout = ARCHITECTURE.read_text("utf-8").partition("## Layout")[2].split("```")[1]
    for folder in ("engine", "core", "backends"):
        block = layout.partition(f"\n  {folder}/\n")[2].partition("\n  langchain/")[0]
        block = re.split(r"\n  (?=\w)", block)[0]
        listed = {line.split()[0] for line in block.splitlines() if ".py" in line}
        modules = {path.name for path in (PACKAGE / folder).glob("*.py")}
        assert listed | {"__init__.py"} == modules | {"__init__.py"}


def test_the_documentation_is_short() -> None:
    docs = [page for page in DOCS.rglob("*.md") if DOCS / "reference" not in page.parents]
    words = {
        "README.md": count_words(ROOT / "README.md"),
        "docs": sum(map(count_words, docs)),
    }
    assert {name: count for name, count in words.items() if count > MAX_WORDS[name]} == {}


@pytest.mark.parametrize("folder", [PACKAGE, DOCS, ROOT / "tests"], ids=page_name)
def test_there_are_no_odd_words(folder: Path) -> None:
    files = sorted(folder.rglob("*.py")) + (PAGES if folder == DOCS else [])
    matches = [
        f"{page_name(file)}:{number}: {match[0]}"
        for file in files
        if file != Path(__file__)
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        for match in ODD_WORD.finditer(line)
    ]
    assert matches == []
