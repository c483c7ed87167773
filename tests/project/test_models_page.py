"""Table of supported models in docs/models.md, compared with the architectures of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.helpers.families import CASES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


class Family(NamedTuple):
    """One row of the table: a backend and the architectures that it runs."""

    backend: str
    architectures: list[str]


def families() -> list[Family]:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Supported models\n")[2]
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    return [Family(row[-2].strip("`"), row[-1].split("; ")) for row in cells]


def test_the_table_lists_the_compared_architectures() -> None:
    assert len(families()) > 10
    listed = {name for family in families() for name in family.architectures}
    assert listed == set(CASES)


def test_the_table_names_the_backend_of_each_family() -> None:
    for family in families():
        assert CASES[family.architectures[0]].backend == family.backend
