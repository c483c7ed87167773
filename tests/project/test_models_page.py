"""The table of docs/models.md lists exactly the architectures that the tests compare."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.helpers.families import CASES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


class Family(NamedTuple):
    """A row of the table."""

    backend: str
    architectures: list[str]


def families() -> list[Family]:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Supported models\n")[2]
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    return [Family(row[-2].strip("`"), row[-1].split("; ")) for row in cells]


def test_every_architecture_is_compared_and_every_comparison_listed() -> None:
    assert len(families()) > 10
    listed = {name for family in families() for name in family.architectures}
    assert listed == set(CASES)


def test_the_first_architecture_of_a_family_runs_where_the_table_says() -> None:
    for family in families():
        assert CASES[family.architectures[0]].backend == family.backend
