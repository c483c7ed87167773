"""Nothing in the package reads a pickle or runs text as code, and no code of models by default."""

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
BUILT_IN = {"eval", "exec"}  # model.eval() is another thing
CALLS = {"read_pickle", "unsafe_load", "Unpickler"}
SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Calls that may load pickles, and the argument that keeps them from it."""


def dangers(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            yield from _of_call(node)
            continue
        else:
            continue
        yield from (f"import {one}" for one in names if one.partition(".")[0] in MODULES)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called in BUILT_IN or called.rpartition(".")[2] in CALLS:
        yield called
    given = {one.arg: ast.unparse(one.value) for one in node.keywords}
    name, safe = SAFE.get(called.replace("numpy.", "np."), ("", None))
    if name and given.get(name) != str(safe):
        yield called
    if given.get("allow_pickle", "False") != "False" or given.get("trust_remote_code") == "True":
        yield ast.unparse(node)


@pytest.mark.parametrize(
    "bad",
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
def test_what_is_looked_for_is_found(bad: str) -> None:
    assert list(dangers(bad))


def test_what_is_harmless_is_not_called_bad() -> None:
    fine = "model.eval(); np.load(f, allow_pickle=False); f(trust_remote_code=config.trust)"
    assert not list(dangers(f"import json\n{fine}\ntorch.load(f, weights_only=True)"))


def test_no_file_reads_pickles_or_runs_text() -> None:
    assert len(FILES) > 100
    found = {str(file): list(dangers(file.read_text(encoding="utf-8"))) for file in FILES}
    assert {file: bad for file, bad in found.items() if bad} == {}


def test_code_of_models_is_never_run_by_default() -> None:
    makers = [Reranker, BiEncoder, CrossEncoderCompressor, BiEncoderEmbeddings]
    for one in (*makers, CrossEncoderPostprocessor, BiEncoderEmbedding, ServerSettings):
        assert inspect.signature(one).parameters["trust_remote_code"].default is False
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code":
                value = "" if node.value is None else ast.unparse(node.value)
                assert value == "False" or value.startswith("Field(default=False,"), file


LOADING = """
import sys
seen = []
sys.addaudithook(lambda name, args: seen.append(args) if name == "pickle.find_class" else None)
import datetime, pickle
pickle.loads(pickle.dumps(datetime.date(2, 2, 2)))
assert seen, "the hook sees nothing"
import rerank_plugins as r, sentence_transformers
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor
seen.clear()
for backend in ("torch", "sbert"):
    reranker = r.Reranker(backend=backend, device="cpu", cache=r.Cache(folder=sys.argv[1]))
    for _ in range(2):  # the second reads the cache
        assert reranker.rank("Who wrote Faust?", ["It rains.", "Goethe wrote Faust."])[0].index == 1
        reranker.close()
r.BiEncoder(device="cpu", cache=r.Cache(folder=sys.argv[1])).encode_query(["Who wrote Faust?"])
assert not seen, seen
"""


@pytest.mark.slow
def test_loading_and_ranking_unpickle_nothing(tmp_path: Path) -> None:
    """Python itself tells of every class that a pickle names."""
    command = [sys.executable, "-c", LOADING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
