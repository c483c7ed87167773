"""Structure of the package in numbers, for the tree of any commit.

``python -m benchmarks.structure [ROOT]`` needs only the standard library, and for its query the
dependencies of the package in ROOT. ROOT is the working directory by default.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "rerank_plugins"

# Runs in its own process, in ROOT. A move is a call that enters a file of the package from
# another file of the package, or from outside of it.
QUERY: Final = """
import inspect, json, sys, threading, time
from pathlib import Path

package = str(Path(sys.argv[1], "rerank_plugins").resolve())
recording = False
files, moves, names = set(), 0, {}

def is_ours(code):
    name = names.get(code)
    if name is None:
        name = names[code] = code.co_filename if code.co_filename.startswith(package) else ""
    return name

def hook(frame, event, argument):
    global moves
    if not recording or event != "call" or not (name := is_ours(frame.f_code)):
        return
    caller = frame.f_back
    while caller is not None and not is_ours(caller.f_code):
        caller = caller.f_back
    files.add(name)
    moves += caller is None or is_ours(caller.f_code) != name

threading.setprofile(hook)
sys.setprofile(hook)

from rerank_plugins import Reranker

texts = ["Goethe wrote Faust.", "It rains.", "Faust is a play.", "Bread is baked."]

def plain():
    reranker = Reranker(top_n=3)
    return reranker.rank, lambda call: call("Who wrote Faust?", texts)

def langchain():
    from langchain_core.documents import Document
    from rerank_plugins.langchain import CrossEncoderCompressor
    documents = [Document(text) for text in texts]
    compressor = CrossEncoderCompressor(top_n=3)
    return compressor.compress_documents, lambda call: call(documents, "Who wrote Faust?")

def llama_index():
    from llama_index.core.schema import NodeWithScore, TextNode
    from rerank_plugins.llama_index import CrossEncoderPostprocessor
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    postprocessor = CrossEncoderPostprocessor(top_n=3)
    return postprocessor.postprocess_nodes, lambda call: call(nodes, query_str="Who wrote Faust?")

result = {"parameters": len(inspect.signature(Reranker).parameters), "queries": {}}
for prepare in (plain, langchain, llama_index):
    method, query = prepare()
    for _ in range(3):
        query(method)
    time.sleep(0.3)
    files, moves, recording = set(), 0, True
    query(method)
    time.sleep(0.3)
    recording = False
    result["queries"][prepare.__name__] = {
        "moves": moves, "files": sorted(file[len(package) + 1:] for file in files)
    }
print(json.dumps(result))
"""


def read_modules(root: Path) -> dict[str, tuple[Path, ast.Module]]:
    """Return path and syntax tree of every module of the package, by its dotted name."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = path, ast.parse(path.read_text("utf-8"))
    return modules


def import_edges(modules: dict[str, tuple[Path, ast.Module]]) -> dict[str, set[str]]:
    """Return which modules each module imports, for types only and in functions included."""
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for name, (path, tree) in modules.items():
        for node in ast.walk(tree):
            edges[name].update(
                target for target in _imported(node, name, path, modules) if target != name
            )
    return edges


def _imported(
    node: ast.AST, name: str, path: Path, modules: dict[str, tuple[Path, ast.Module]]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            levels = node.level - (path.name == "__init__.py")
            package = name.rsplit(".", levels)[0] if levels else name
            base = f"{package}.{base}".rstrip(".")
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            if submodule in modules or base in modules:
                yield submodule if submodule in modules else base


def import_cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in edges[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            start = stack.index(name)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                cycles.append(sorted(component))

    for name in edges:
        if name not in index:
            visit(name)
    return sorted(cycles)


def overlap_declarations(modules: dict[str, tuple[Path, ast.Module]]) -> list[str]:
    """Return where the overlap of windows is declared: as a field or as a parameter."""
    places = []
    for path, tree in modules.values():
        settings = {
            statement
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.name == "Windows"
            for statement in node.body
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                declared = node.target.id
            elif isinstance(node, ast.arg):
                declared = node.arg
            else:
                continue
            if declared == "window_overlap" or (declared == "overlap" and node in settings):
                places.append(f"{path.name}:{node.lineno}")
    return places


def count_lines(folder: Path) -> tuple[int, int]:
    """Return the number of Python files under a folder, and of their lines."""
    texts = [path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))]
    return len(texts), sum(text.count("\n") for text in texts)


def count_words(paths: list[Path]) -> int:
    """Return the number of words separated by whitespace."""
    return sum(len(path.read_text("utf-8").split()) for path in paths)


def run_query(root: Path) -> dict[str, Any]:
    """Run one query through each interface in a new process and return what it counted."""
    search_path = [str(root), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))}
    command = [sys.executable, "-c", QUERY, str(root)]
    done = subprocess.run(  # noqa: S603
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(root: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    modules = read_modules(root)
    lines: dict[str, list[int]] = defaultdict(list)
    for path, _ in modules.values():
        folder = path.parent.relative_to(root).as_posix()
        lines[folder].append(path.read_text("utf-8").count("\n"))
    yield f"{'folder':<42}{'files':>7}{'lines':>8}{'mean':>7}"
    for folder, counts in sorted(lines.items()):
        yield _folder_row(folder, counts)
    yield _folder_row("total", [count for counts in lines.values() for count in counts])
    yield ""

    edges = import_edges(modules)
    importers = Counter(target for targets in edges.values() for target in targets)
    yield f"import edges: {sum(map(len, edges.values()))}"
    yield f"modules with one importer: {sum(count == 1 for count in importers.values())}"
    cycles = import_cycles(edges)
    yield f"import cycles (type-only imports included): {len(cycles)}"
    yield from (f"  {len(cycle)} modules: {', '.join(cycle)}" for cycle in cycles)
    places = overlap_declarations(modules)
    yield f"declarations of the window overlap: {len(places)} ({', '.join(places)})"

    counted = run_query(root)
    if "error" in counted:
        yield f"query failed: {counted['error']}"
    else:
        yield f"constructor parameters of Reranker: {counted['parameters']}"
        for name, query in counted["queries"].items():
            files = query["files"]
            yield f"query, {name}: {len(files)} files, {query['moves']} moves between files"
            yield from (f"  {file}" for file in files)
    yield ""

    pages = [
        path
        for path in sorted((root / "docs").rglob("*.md"))
        if "reference" not in path.relative_to(root).parts
    ]
    yield f"words in docs/ without reference/: {count_words(pages)} in {len(pages)} pages"
    yield f"words in README.md: {count_words([root / 'README.md'])}"
    for folder in (PACKAGE, "tests", "benchmarks"):
        files, total = count_lines(root / folder)
        yield f"Python lines of {folder}: {total} in {files} files"


def _folder_row(folder: str, counts: list[int]) -> str:
    mean = sum(counts) / len(counts)
    return f"{folder:<42}{len(counts):>7}{sum(counts):>8}{mean:>7.0f}"


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path.cwd(), metavar="ROOT")
    root = parser.parse_args().root.resolve()
    sys.stdout.write("\n".join(report(root)) + "\n")


if __name__ == "__main__":
    main()
