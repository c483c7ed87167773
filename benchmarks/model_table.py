"""The table of supported models in docs/models.md, from docs/models.json."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from benchmarks.environment import ROOT

DATA: Final = ROOT / "docs" / "models.json"
PAGE: Final = ROOT / "docs" / "models.md"


def read_models() -> dict[str, Any]:
    """Return the supported models, and the sources of their published figures."""
    models: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return models


def models_table() -> str:
    """Return the table as Markdown, with the sources below it."""
    found = read_models()
    lines = [
        (
            "| family (example) | parameters | license | languages | reach | `auto` runs it with "
            "| published quality | published pairs/s | architectures compared |"
        ),
        "| --- " * 9 + "|",
    ]
    lines += [
        f"| {one['family']} (`{one['example']}`) | {one['parameters']} | {one['license']} "
        f"| {one['languages']} | {one['reach']} | `{one['backend']}` | {one['quality']} "
        f"| {one['speed']} | {'; '.join(one['architectures'])} |"
        for one in found["models"]
    ]
    sources = [f"[{number}] {text}." for number, text in found["sources"].items()]
    return "\n".join([*lines, "", " ".join(sources)])


def with_models(page: str) -> str:
    """Return the page with the table between its markers."""
    marked = re.compile(r"(<!-- models -->\n).*?(<!-- /models -->)", re.DOTALL)
    return marked.sub(lambda match: f"{match[1]}{models_table()}\n{match[2]}", page)


def write_models() -> None:
    """Renew the table in the page."""
    PAGE.write_text(with_models(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
