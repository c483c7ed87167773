"""What is built, and that it works where the sources are not."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

from rerank_plugins import __version__

ROOT = Path(__file__).parents[1]
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"


class Built(NamedTuple):
    """The two archives of a build."""

    wheel: Path
    sdist: Path


def call(*command: object, cwd: Path) -> str:
    done = subprocess.run(  # noqa: S603
        [str(one) for one in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return Built(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


@pytest.fixture(scope="module")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, and this one's packages for the rest."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    interpreter = folder / SCRIPTS / Path(sys.executable).name
    command = (sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet")
    call(*command, "--no-deps", "--no-index", built.wheel, cwd=folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(call(interpreter, "-I", "-c", code, cwd=folder).strip())
    # A path file adds a folder without reading that folder's own path files, so that an
    # editable install there, which points at the sources, stays out of sight.
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return interpreter


def test_one_version_everywhere() -> None:
    assert version("rerank-plugins") == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_every_dependency_is_constrained() -> None:
    names = re.findall(
        r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    constrained = {name.lower().replace("_", "-") for name in names}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.findall(r'"([A-Za-z][\w-]*)(?:[<>=]=?[^"]*)"', text)
    assert len(declared) > 20
    missing = {one.lower().replace("_", "-") for one in declared} - constrained
    assert missing == set()


@pytest.mark.slow
def test_the_archives_hold_what_they_should(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        inside = set(wheel.namelist())
    with tarfile.open(built.sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    shipped = {
        str(file.relative_to(ROOT).as_posix())
        for file in (ROOT / "rerank_plugins").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {
        "rerank_plugins/py.typed",
        "rerank_plugins/models/mini/model.safetensors",
        "rerank_plugins/data/squad-dev/corpus.jsonl.gz",
        "rerank_plugins/data/squad-dev/ATTRIBUTION.md",
    } <= shipped
    assert shipped <= inside
    assert shipped <= sources
    assert {"LICENSE", "Makefile", "constraints.txt", "tests/test_packaging.py"} <= sources
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert not any(name.startswith("tests/") for name in inside)
    assert f"-{__version__}-" in built.wheel.name


@pytest.mark.slow
def test_the_wheel_works_without_the_sources(python: Path, tmp_path: Path) -> None:
    code = (
        "import rerank_plugins as r; from importlib.metadata import version;"
        "best = r.Reranker().rank('who wrote faust', ['rain', 'goethe wrote faust'])[0].index;"
        "print(r.__file__, r.__version__, version('rerank-plugins'), best, sep='|')"
    )
    file, own, installed, best = call(python, "-I", "-c", code, cwd=tmp_path).strip().split("|")
    assert not Path(file).is_relative_to(ROOT)
    assert Path(file).is_relative_to(python.parents[1])
    assert (own, installed, best) == (__version__, __version__, "1")


@pytest.mark.slow
def test_the_command_is_installed(python: Path, tmp_path: Path) -> None:
    assert call(python.parent / "rerank-plugins", "--version", cwd=tmp_path).strip() == __version__


@pytest.mark.slow
def test_the_adapters_import_from_the_wheel(python: Path, tmp_path: Path) -> None:
    code = (
        "from rerank_plugins.langchain import CrossEncoderCompressor as a;"
        "from rerank_plugins.llama_index import CrossEncoderPostprocessor as b;"
        "print(a(), b().class_name())"
    )
    assert "CrossEncoderPostprocessor" in call(python, "-I", "-c", code, cwd=tmp_path)
