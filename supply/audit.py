"""Known weaknesses of the dependencies, looked up by pip-audit: ``python -m supply.audit``.

Where no service of weaknesses can be reached nothing was audited, and this says so: it fails, or
with ``--skip-unreachable`` ends with a warning. It never calls a look-up that failed a clean one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from supply.closure import PROJECT, closure

SERVICES: Final = ("osv", "pypi")
_SECONDS: Final = 15
_LONGEST_S: Final = 120.0
"""For one question to a service: pip-audit itself tries again, package by package."""


class NotAuditedError(RuntimeError):
    """A service did not answer, or did not know the packages."""


def requirements() -> list[str]:
    """Return all dependencies as pinned lines; a local build counts as what it is a build of."""
    return [
        f"{name}=={one.found.version.partition('+')[0]}"
        for name, one in closure().items()
        if name != PROJECT
    ]


def look_up(lines: Iterable[str], service: str, longest: float = _LONGEST_S) -> list[str]:
    """Return the known weaknesses, a line each.

    Args:
        lines: Pinned requirements.
        service: Whom to ask.
        longest: Seconds to wait for all of it.

    Raises:
        NotAuditedError: If the service did not answer for every package.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--no-deps"]
        command += ["--disable-pip", "--progress-spinner", "off", "--timeout", str(_SECONDS)]
        try:
            done = subprocess.run(  # noqa: S603
                [*command, "--vulnerability-service", service, "--requirement", str(file)],
                capture_output=True,
                text=True,
                check=False,
                timeout=longest,
            )
        except subprocess.TimeoutExpired:
            message = f"{service}: no answer within {longest:g} s"
            raise NotAuditedError(message) from None
    try:
        answer: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        message = f"{service}: {reason[0]}"
        raise NotAuditedError(message) from None
    return weaknesses(answer, service)


def weaknesses(answer: Mapping[str, Any], service: str) -> list[str]:
    """Read pip-audit's answer, which calls packages that nobody knows skipped, not clean.

    Raises:
        NotAuditedError: If a package was skipped.
    """
    packages = answer["dependencies"]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if skipped or not packages:
        message = f"{service}: nothing is known of {len(skipped)} packages, such as {skipped[:3]}"
        raise NotAuditedError(message)
    return [
        f"{one['name']} {one['version']}: {bad['id']}, fixed in {bad['fix_versions'] or 'none'}"
        for one in packages
        for bad in one["vulns"]
    ]


def audit(lines: list[str]) -> list[str]:
    """Ask the services in turn until one answers.

    Raises:
        NotAuditedError: If none does.
    """
    silent = []
    for service in SERVICES:
        try:
            # One, so that a service that does not answer is left alone.
            look_up(lines[:1], service, 2 * _SECONDS)
            return look_up(lines, service)
        except NotAuditedError as error:  # noqa: PERF203  (two turns)
            silent.append(str(error))
    raise NotAuditedError("; ".join(silent))


def main(
    *,
    skip_unreachable: Annotated[
        bool, typer.Option("--skip-unreachable", help="Only warn where no service answers.")
    ] = False,
) -> None:
    """Look up all dependencies of an installation with every extra."""
    lines = requirements()
    try:
        found = audit(lines)
    except NotAuditedError as error:
        typer.echo(f"NOT AUDITED: {len(lines)} packages were not looked up. {error}", err=True)
        raise typer.Exit(0 if skip_unreachable else 2) from None
    for line in found:
        typer.echo(line, err=True)
    typer.echo(f"{len(lines)} packages were looked up, {len(found)} weaknesses are known.")
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    typer.run(main)
