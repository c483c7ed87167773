"""Wheel and sdist: contents, versions, and use without the sources."""

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
from typing import Any, NamedTuple

import pytest

from rerank_plugins import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"


class Archives(NamedTuple):
    """Paths of the archives of one build."""

    wheel: Path
    sdist: Path


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command: object, cwd: Path) -> str:
    process = subprocess.run(  # noqa: S603
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return Archives(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


@pytest.fixture(scope="module")
def python(built: Archives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; all other packages are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    interpreter = folder / SCRIPTS / Path(sys.executable).name
    command = (sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet")
    run(*command, "--no-deps", "--no-index", built.wheel, cwd=folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run(interpreter, "-I", "-c", code, cwd=folder).strip())
    # The .pth files of a folder added by a .pth file are not processed, so the editable install
    # of the sources stays hidden.
    (site_packages / "parent.pth").write_text(
        sysconfig.get_path("purelib") + "\n", encoding="utf-8"
    )
    return interpreter


def test_package_and_changelog_have_the_same_version() -> None:
    assert version("rerank-plugins") == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_every_dependency_is_constrained() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {normalized(name) for name in re.findall(r"^([\w.-]+)==", constraints, re.MULTILINE)}
    groups = [
        PROJECT["dependencies"],
        *PROJECT["optional-dependencies"].values(),
        PYPROJECT["dependency-groups"]["dev"],
    ]
    names = {normalized(re.split(r"[^\w.-]", line)[0]) for group in groups for line in group}
    assert len(names) > 20
    assert names - pinned == {"rerank-plugins"}


@pytest.mark.slow
def test_the_archives_contain_every_file_of_the_package(built: Archives) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        wheel_files = set(wheel.namelist())
    with tarfile.open(built.sdist) as archive:
        sdist_files = {name.partition("/")[2] for name in archive.getnames()}
    package_files = {
        str(file.relative_to(ROOT).as_posix())
        for file in (ROOT / "rerank_plugins").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {
        "rerank_plugins/py.typed",
        "rerank_plugins/models/mini/model.safetensors",
        "rerank_plugins/data/squad-dev/corpus.jsonl.gz",
        "rerank_plugins/data/squad-dev/ATTRIBUTION.md",
    } <= package_files
    assert package_files <= wheel_files
    assert package_files <= sdist_files
    assert {
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "tests/conftest.py",
    } <= sdist_files
    assert any(name.endswith("licenses/LICENSE") for name in wheel_files)
    assert not any(name.startswith("tests/") for name in wheel_files)
    assert f"-{__version__}-" in built.wheel.name


@pytest.mark.slow
def test_the_wheel_works_without_the_sources(python: Path, tmp_path: Path) -> None:
    code = (
        "import rerank_plugins as r; from importlib.metadata import version;"
        "first = r.Reranker().rank('who wrote faust', ['rain', 'goethe wrote faust'])[0].index;"
        "print(r.__file__, r.__version__, version('rerank-plugins'), first, sep='|')"
    )
    file, imported, installed, first = (
        run(python, "-I", "-c", code, cwd=tmp_path).strip().split("|")
    )
    assert not Path(file).is_relative_to(ROOT)
    assert Path(file).is_relative_to(python.parents[1])
    assert (imported, installed, first) == (__version__, __version__, "1")


@pytest.mark.slow
def test_the_command_is_installed(python: Path, tmp_path: Path) -> None:
    assert run(python.parent / "rerank-plugins", "--version", cwd=tmp_path).strip() == __version__


@pytest.mark.slow
def test_the_adapters_import_from_the_wheel(python: Path, tmp_path: Path) -> None:
    code = (
        "from rerank_plugins.langchain import CrossEncoderCompressor;"
        "from rerank_plugins.llama_index import CrossEncoderPostprocessor;"
        "print(CrossEncoderCompressor(), CrossEncoderPostprocessor().class_name())"
    )
    assert "CrossEncoderPostprocessor" in run(python, "-I", "-c", code, cwd=tmp_path)
