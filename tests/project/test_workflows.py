"""GitHub workflows, compared with the Makefile, the package and the changelog.

``make lint`` checks their syntax and permissions.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
MAKE_COMMAND = re.compile(r"(?:^|run: |`)make ((?:[a-z-]+ ?)+)", re.MULTILINE)
TARGET = re.compile(r"^([a-z][a-z -]*):", re.MULTILINE)


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    return loaded


def release_check(tmp_path: Path, tag: str, changelog: str) -> int:
    """Run the step that compares the tag with the package version and the changelog."""
    steps = workflow("release.yml")["jobs"]["build"]["steps"]
    script = next(step["run"] for step in steps if "changelog" in step.get("name", ""))
    (tmp_path / "rerank_plugins").mkdir(exist_ok=True)
    shutil.copy(ROOT / "rerank_plugins" / "__init__.py", tmp_path / "rerank_plugins")
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    command = ["bash", "-e", "-o", "pipefail", "-c", script]  # the options of GitHub's runners
    environment = {**os.environ, "TAG": tag}
    return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode  # noqa: S603


def test_the_matrix_has_every_supported_python() -> None:
    prefix = "Programming Language :: Python :: "
    classifiers = metadata("rerank-plugins").get_all("Classifier") or []
    supported = [line.removeprefix(prefix) for line in classifiers if line.startswith(prefix)]
    assert workflow("test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == supported


@pytest.mark.parametrize(
    "file",
    [
        ".ci/run",
        ".github/pull_request_template.md",
        ".github/workflows/docs.yml",
        ".github/workflows/release.yml",
        ".github/workflows/test.yml",
        "CONTRIBUTING.md",
    ],
)
def test_every_make_command_has_a_target(file: str) -> None:
    if not (ROOT / file).exists():
        pytest.skip(f"{file} is not part of the sdist")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {target for line in TARGET.findall(makefile) for target in line.split()}
    commands = MAKE_COMMAND.findall((ROOT / file).read_text(encoding="utf-8"))
    named = {target for command in commands for target in command.split()}
    assert named
    assert named <= targets


@pytest.mark.skipif(sys.platform == "win32", reason="the release workflow runs on Linux")
def test_a_release_needs_matching_versions(tmp_path: Path) -> None:
    version = metadata("rerank-plugins")["Version"]
    changelog = f"# Changelog\n\n## [{version}] - 2030-01-31\n"
    unreleased = changelog.replace("2030-01-31", "unreleased")
    assert release_check(tmp_path, f"v{version}", changelog) == 0
    assert release_check(tmp_path, "v99.0.0", changelog) != 0
    assert release_check(tmp_path, f"v{version}", unreleased) != 0
    assert release_check(tmp_path, f"v{version}", "# Changelog\n") != 0
