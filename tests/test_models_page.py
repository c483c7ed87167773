"""docs/models.md lists what the tests compare, and nothing else."""

from __future__ import annotations

from benchmarks.model_table import PAGE, read_models, with_models
from tests.families import CASES


def test_the_table_is_that_of_the_data() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_models(page) == page
    assert "| family" in page


def test_every_architecture_is_compared_and_every_comparison_listed() -> None:
    listed = {name for model in read_models()["models"] for name in model["architectures"]}
    assert listed == set(CASES)


def test_the_first_architecture_of_a_family_runs_where_the_table_says() -> None:
    for model in read_models()["models"]:
        assert CASES[model["architectures"][0]].backend == model["backend"]


def test_every_source_is_used_and_every_figure_has_one() -> None:
    found = read_models()
    cells = " ".join(
        value for model in found["models"] for value in model.values() if isinstance(value, str)
    )
    for number in found["sources"]:
        assert f"[{number}]" in cells
    for model in found["models"]:
        for name in ("quality", "speed"):
            assert not model[name] or model[name].endswith("]")
