"""The import arrows of the design, the cost of an import, and the size of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rerank_plugins"
SOURCES = sorted(PACKAGE.rglob("*.py"))

FRAMEWORKS = ("langchain", "langchain_core", "langchain_classic", "llama_index")
MODEL_LIBRARIES = ("torch", "transformers", "sentence_transformers", "tokenizers")
EDGES = tuple(
    f"rerank_plugins.{name}"
    for name in ("langchain", "llama_index", "cli", "serving", "batch", "evaluation", "testing")
)
LINES = 200


def within(name: str, *roots: str) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def imports(file: Path) -> Iterator[str]:
    """Yield the absolute name of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong(files: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports(file)
        if within(name, *forbidden)
    ]


def part(name: str) -> list[Path]:
    files = [file for file in SOURCES if file.is_relative_to(PACKAGE / name)]
    assert files, f"there is no rerank_plugins/{name}"
    return files


def test_the_core_knows_numpy_and_the_standard_library_only() -> None:
    allowed = (
        "numpy",
        "rerank_plugins.core",
        "rerank_plugins.errors",
        "rerank_plugins._lazy",
        "rerank_plugins._progress",
        *sys.stdlib_module_names,
    )
    others = [
        f"{file.name} imports {name}"
        for file in part("core")
        for name in imports(file)
        if not within(name, *allowed)
    ]
    assert others == []


def test_backends_know_no_framework_and_no_adapter() -> None:
    assert wrong(part("backends"), *FRAMEWORKS, *EDGES, "typer", "rich") == []


@pytest.mark.parametrize(
    ("adapter", "other"), [("langchain", "llama_index"), ("llama_index", "langchain")]
)
def test_adapters_map_and_know_neither_each_other_nor_a_backend(adapter: str, other: str) -> None:
    forbidden = (f"rerank_plugins.{other}", "rerank_plugins.backends", "rerank_plugins.cli")
    assert wrong(part(adapter), *forbidden, *MODEL_LIBRARIES) == []


def test_frameworks_are_imported_by_their_adapter_and_the_demo_only() -> None:
    homes = [PACKAGE / name for name in ("langchain", "llama_index", "cli")]
    others = [file for file in SOURCES if not any(file.is_relative_to(home) for home in homes)]
    assert wrong(others, *FRAMEWORKS) == []
    assert wrong(part("langchain"), "llama_index") == []
    assert wrong(part("llama_index"), "langchain", "langchain_core", "langchain_classic") == []


def test_an_edge_is_imported_by_no_inner_part() -> None:
    inner = [file for file in SOURCES if file.parent in (PACKAGE, PACKAGE / "core")]
    assert wrong(inner, *EDGES) == []


def fresh(code: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = (*FRAMEWORKS, *MODEL_LIBRARIES, "numpy", "pydantic", "typer", "rich", "tqdm")
    code = f"import sys, rerank_plugins; [print(n) for n in {heavy!r} if n in sys.modules]"
    assert fresh(code).split() == []


def test_importing_an_adapter_package_is_cheap_too() -> None:
    code = (
        "import sys, rerank_plugins.langchain, rerank_plugins.llama_index;"
        f"[print(n) for n in {(*FRAMEWORKS, *MODEL_LIBRARIES)!r} if n in sys.modules]"
    )
    assert fresh(code).split() == []


def test_importing_the_package_takes_under_a_tenth_of_a_second() -> None:
    code = (
        "from time import process_time as now; start = now();"
        "import rerank_plugins; print(now() - start)"
    )
    assert min(float(fresh(code)) for _ in range(5)) < 0.1


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_can_be_read_in_one_sitting(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES, f"{file} has {lines} lines; split it at {LINES}"
