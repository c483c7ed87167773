"""Public names: what the packages export, their docstrings, and what the documentation imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from rerank_plugins import errors
from tests.helpers.code_blocks import PAGES, ROOT, code_blocks

PACKAGES: Final = {
    "rerank_plugins": "numpy",
    "rerank_plugins.batch": "pyarrow",
    "rerank_plugins.evaluation": "numpy",
    "rerank_plugins.langchain": "langchain_core",
    "rerank_plugins.llama_index": "llama_index.core",
    "rerank_plugins.ray": "ray",
    "rerank_plugins.serving": "fastapi",
    "rerank_plugins.testing": "numpy",
}
"""Public packages, and a library that each needs."""
NOTEBOOKS: Final = sorted((ROOT / "notebooks").glob("*.ipynb"))

TERMS: Final = {
    ("rerank_plugins", "Reranker"): r"\breranker\b|Rerank",
    ("rerank_plugins.langchain", "CrossEncoderCompressor"): "document compressor",
    ("rerank_plugins.llama_index", "CrossEncoderPostprocessor"): "node postprocessor",
}
"""Terms by which readers search for a class; the first line of its docstring contains them."""

# Ray imports models that use a deprecated feature of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")


def load(package: str) -> ModuleType:
    pytest.importorskip(PACKAGES[package])
    return importlib.import_module(package)


def exported_values(package: str) -> dict[str, Any]:
    """Return the exported names of a package that have docstrings, and what they stand for."""
    module = load(package)
    return {name: getattr(module, name) for name in module.__all__ if name != "__version__"}


def public_names(module: ModuleType) -> set[str]:
    """Return the public names of a module that it or a public module of its package defines."""
    names = {"__version__"} & set(dir(module))
    for name in dir(module):
        home = str(getattr(getattr(module, name), "__module__", ""))
        is_own = home == module.__name__ or home.startswith(f"{module.__name__}.")
        if not name.startswith("_") and is_own and "._" not in home:
            names.add(name)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_lists_the_public_names(package: str) -> None:
    module = load(package)
    assert module.__all__ == sorted(module.__all__)
    assert set(module.__all__) == public_names(module)


def test_every_error_is_exported() -> None:
    exceptions = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and not name.startswith("_")
    }
    assert exceptions - set(importlib.import_module("rerank_plugins").__all__) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_has_a_docstring(package: str) -> None:
    for name, value in exported_values(package).items():
        docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert docstring, f"{name} has no docstring"
        assert docstring.splitlines()[0].endswith("."), f"{name}: {docstring.splitlines()[0]!r}"


@pytest.mark.parametrize(("package", "name"), TERMS)
def test_docstrings_contain_the_term_of_the_field(package: str, name: str) -> None:
    docstring = str(exported_values(package)[name].__doc__)
    assert re.search(TERMS[package, name], docstring.splitlines()[0])


def code_of(page: Path) -> Iterator[str]:
    """Yield the Python code of a page or notebook."""
    if page.suffix == ".md":
        yield from (
            block.code
            for block in code_blocks(page)
            if block.language == "python" and block.note != "before"
        )
        return
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield re.sub(r"^[%!].*$", "", "".join(cell["source"]), flags=re.MULTILINE)


def package_imports(code: str) -> Iterator[tuple[str, str]]:
    """Yield each import of the package in some code: module and name."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            imports = [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            imports = [(alias.name, "") for alias in node.names]
        else:
            continue
        yield from (found for found in imports if found[0].partition(".")[0] == "rerank_plugins")


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.stem)
def test_the_documentation_imports_public_names_only(page: Path) -> None:
    for code in code_of(page):
        for module, name in package_imports(code):
            assert module in PACKAGES, f"{page}: {module}.{name}"
            exported = importlib.import_module(module).__all__
            assert not name or name in exported, f"{page}: {module}.{name}"
