"""No module reads pickles or executes text, and code of models is not run by default."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.langchain import BiEncoderEmbeddings, CrossEncoderCompressor
from rerank_plugins.llama_index import BiEncoderEmbedding, CrossEncoderPostprocessor
from rerank_plugins.serving import ServerSettings

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "rerank_plugins").rglob("*.py"))

MODULES = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
BUILT_IN = {"eval", "exec"}  # a method such as model.eval() is allowed
CALLS = {"read_pickle", "unsafe_load", "Unpickler"}
SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Calls that can load pickles, and the argument that prevents it."""


def dangerous_code(source: str) -> Iterator[str]:
    """Yield the imports and calls in a source that can execute code from data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            yield from _dangerous_call(node)
            continue
        else:
            continue
        yield from (f"import {name}" for name in names if name.partition(".")[0] in MODULES)


def _dangerous_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called in BUILT_IN or called.rpartition(".")[2] in CALLS:
        yield called
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    name, safe = SAFE.get(called.replace("numpy.", "np."), ("", None))
    if name and arguments.get(name) != str(safe):
        yield called
    allows_pickle = arguments.get("allow_pickle", "False") != "False"
    if allows_pickle or arguments.get("trust_remote_code") == "True":
        yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "numpy.load(file)",
        "np.load(file, allow_pickle=True)",
        "pandas.read_pickle(file)",
        "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_dangerous_code_is_found(source: str) -> None:
    assert list(dangerous_code(source))


def test_harmless_code_is_accepted() -> None:
    source = "model.eval(); np.load(f, allow_pickle=False); f(trust_remote_code=config.trust)"
    assert not list(dangerous_code(f"import json\n{source}\ntorch.load(f, weights_only=True)"))


def test_no_module_reads_pickles_or_executes_text() -> None:
    assert len(FILES) > 100
    dangerous = {
        str(file): code
        for file in FILES
        if (code := list(dangerous_code(file.read_text(encoding="utf-8"))))
    }
    assert dangerous == {}


def test_code_of_models_is_never_run_by_default() -> None:
    classes = [Reranker, BiEncoder, CrossEncoderCompressor, BiEncoderEmbeddings]
    for cls in (*classes, CrossEncoderPostprocessor, BiEncoderEmbedding, ServerSettings):
        assert inspect.signature(cls).parameters["trust_remote_code"].default is False
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code":
                value = "" if node.value is None else ast.unparse(node.value)
                assert value == "False" or value.startswith("Field(default=False,"), file


SCRIPT = """
import sys
seen = []
sys.addaudithook(lambda name, args: seen.append(args) if name == "pickle.find_class" else None)
import datetime, pickle
pickle.loads(pickle.dumps(datetime.date(2, 2, 2)))
assert seen, "the hook records nothing"
import rerank_plugins as r, sentence_transformers
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor
seen.clear()
for backend in ("torch", "sbert"):
    reranker = r.Reranker(backend=backend, device="cpu", cache=r.Cache(folder=sys.argv[1]))
    for _ in range(2):  # the second time from the cache
        assert reranker.rank("Who wrote Faust?", ["It rains.", "Goethe wrote Faust."])[0].index == 1
        reranker.close()
r.BiEncoder(device="cpu", cache=r.Cache(folder=sys.argv[1])).encode_query(["Who wrote Faust?"])
assert not seen, seen
"""


@pytest.mark.slow
def test_loading_and_ranking_unpickle_nothing(tmp_path: Path) -> None:
    """The audit event ``pickle.find_class`` reports every class in a pickle."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
