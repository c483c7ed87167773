"""Import rules of the design, cost of an import, and layout of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "rerank_plugins"

LAYERS: Final = (
    ("errors",),
    ("_lazy", "_progress"),
    ("config", "types"),
    ("_tracing",),
    ("engine",),
    ("backends", "core", "testing"),
    ("_fields", "explain", "public names", "tracing"),
    ("batch", "evaluation", "langchain", "llama_index", "serving"),
    ("ray",),
    ("cli",),
)
"""Parts of the package, from the innermost layer to the outermost.

A part imports itself and parts of the layers before its own, never another part of its own layer.
The public names are those of ``rerank_plugins/__init__.py``.
"""
TOGETHER: Final = {"config", "types"}
"""Parts of one layer that may import each other; the test of cycles still applies."""

FRAMEWORKS: Final = {
    "langchain": ("langchain", "langchain_core", "langchain_classic"),
    "llama_index": ("llama_index",),
}
"""Libraries by the only part, apart from the demo of the command line, that imports them."""
MODEL_LIBRARIES: Final = ("torch", "transformers", "sentence_transformers", "tokenizers")

MAX_MODULES: Final = 15
NOUNS: Final = {
    "loading", "logging", "packing", "ranking", "serving", "testing", "tracing", "tuning",
}  # fmt: skip
"""Names of modules and folders that end like a gerund and are nouns of the field."""


def find_modules() -> dict[str, Path]:
    """Return the file of each module by its dotted name."""
    modules = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


MODULES: Final = find_modules()


def imported_names(file: Path) -> Iterator[str]:
    """Yield the full name of each import statement, in functions and for types only included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str | None:
    """Return the module of the package that a full name is, or is defined in."""
    return next((found for found in (name, name.rpartition(".")[0]) if found in MODULES), None)


def part_of(module: str) -> str:
    """Return the part of the package that a module belongs to."""
    return module.split(".")[1] if "." in module else "public names"


def is_below(name: str, *packages: str) -> bool:
    """Return whether a full name is one of the packages or in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def third_party_imports(*parts: str) -> set[tuple[str, str]]:
    """Return the modules of some parts, each with each name of another package it imports."""
    return {
        (module, name)
        for module, file in MODULES.items()
        if part_of(module) in parts
        for name in imported_names(file)
        if not is_below(name, "rerank_plugins", *sys.stdlib_module_names)
    }


def find_cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in edges[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                cycles.append(sorted(component))

    for module in edges:
        if module not in index:
            visit(module)
    return sorted(cycles)


def import_edges() -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    return {
        module: {target for name in imported_names(file) if (target := module_of(name)) is not None}
        - {module}
        for module, file in MODULES.items()
    }


def test_cycles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set()}
    assert find_cycles(edges) == [["a", "b", "c"]]


def test_there_is_no_import_cycle() -> None:
    assert find_cycles(import_edges()) == []


def test_every_part_has_one_layer() -> None:
    layered = [part for layer in LAYERS for part in layer]
    assert sorted(layered) == sorted({part_of(module) for module in MODULES})


@pytest.mark.parametrize("part", [part for layer in LAYERS for part in layer])
def test_a_part_imports_inner_layers_only(part: str) -> None:
    (level,) = (level for level, layer in enumerate(LAYERS) if part in layer)
    allowed = {inner for layer in LAYERS[:level] for inner in layer} | {part}
    if part in TOGETHER:
        allowed |= TOGETHER
    wrong = {
        f"{module} imports {name}"
        for module, file in MODULES.items()
        if part_of(module) == part
        for name in imported_names(file)
        if name != "rerank_plugins.__version__"
        and (target := module_of(name)) is not None
        and part_of(target) not in allowed
    }
    assert wrong == set()


@pytest.mark.parametrize(
    ("part", "libraries"),
    [("engine", ("numpy",)), ("core", ("numpy", "pydantic", "typing_extensions"))],
)
def test_engine_and_core_import_few_libraries(part: str, libraries: tuple[str, ...]) -> None:
    imports = third_party_imports(part)
    assert {(module, name) for module, name in imports if not is_below(name, *libraries)} == set()


def test_frameworks_are_imported_by_their_adapter_and_the_command_line_only() -> None:
    for part in {part_of(module) for module in MODULES} - {"cli"}:
        others = [name for home, names in FRAMEWORKS.items() if home != part for name in names]
        imports = third_party_imports(part)
        assert {(module, name) for module, name in imports if is_below(name, *others)} == set()


def test_adapters_import_no_model_library_and_backends_no_terminal_library() -> None:
    for parts, forbidden in (
        (("langchain", "llama_index"), MODEL_LIBRARIES),
        (("backends",), ("typer", "rich")),
    ):
        imports = third_party_imports(*parts)
        assert {(module, name) for module, name in imports if is_below(name, *forbidden)} == set()


def run_python(code: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    libraries = (*FRAMEWORKS, *MODEL_LIBRARIES, "langchain_core", "numpy", "pydantic", "typer")
    heavy = (*libraries, "rich", "tqdm")
    code = f"import sys, rerank_plugins; [print(n) for n in {heavy!r} if n in sys.modules]"
    assert run_python(code).split() == []


def test_importing_an_adapter_package_loads_no_framework() -> None:
    heavy = (*FRAMEWORKS, *MODEL_LIBRARIES, "langchain_core", "langchain_classic")
    code = (
        "import sys, rerank_plugins.langchain, rerank_plugins.llama_index;"
        f"[print(n) for n in {heavy!r} if n in sys.modules]"
    )
    assert run_python(code).split() == []


def test_importing_the_package_takes_under_a_tenth_of_a_second() -> None:
    code = (
        "from time import process_time as now; start = now();"
        "import rerank_plugins; print(now() - start)"
    )
    assert min(float(run_python(code)) for _ in range(5)) < 0.1


def test_a_folder_has_at_most_fifteen_modules() -> None:
    counts = {file.parent: len(list(file.parent.glob("*.py"))) for file in MODULES.values()}
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_modules_are_named_by_nouns() -> None:
    names = {module.rpartition(".")[2].strip("_") for module in MODULES}
    assert {name for name in names if name.endswith("ing")} - NOUNS == set()
