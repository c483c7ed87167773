"""docs/models.json lists the architectures that the tests compare, and nothing else."""

from __future__ import annotations

from benchmarks.tables import models_table, read_models
from tests.families import CASES


def test_the_table_has_a_line_per_family() -> None:
    table = models_table()
    assert table.startswith("| family")
    for model in read_models()["models"]:
        assert f"| {model['family']} (`{model['example']}`) |" in table


def test_every_architecture_is_compared_and_every_comparison_listed() -> None:
    listed = {name for model in read_models()["models"] for name in model["architectures"]}
    assert listed == set(CASES)


def test_the_first_architecture_of_a_family_has_the_backend_of_the_table() -> None:
    for model in read_models()["models"]:
        assert CASES[model["architectures"][0]].backend == model["backend"]


def test_every_source_is_used_and_every_figure_has_one() -> None:
    data = read_models()
    cells = " ".join(
        value for model in data["models"] for value in model.values() if isinstance(value, str)
    )
    for number in data["sources"]:
        assert f"[{number}]" in cells
    for model in data["models"]:
        for name in ("quality", "speed"):
            assert not model[name] or model[name].endswith("]")
