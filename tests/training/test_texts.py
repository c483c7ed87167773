"""Configuration, groups, wording and the texts that are cut out of passages."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from rerank_plugins.errors import ConfigurationError, InvalidInputError
from tests.training.conftest import small, write_groups
from training.cutting import sentences_of, windows_of
from training.groups import read_groups
from training.prepare import prepare
from training.prepared import Prepared
from training.settings import DEFAULT, read_settings
from training.wording import careless, casual, keywords, phrase, without_marks

TEXT = " ".join(
    f"Sentence number {at} tells of the river and its {at} bridges." for at in range(30)
)


def test_the_configuration_makes_lists_of_one_size() -> None:
    mine = read_settings().mine
    assert 1 + mine.hard + mine.lexical + mine.given < mine.size


@pytest.mark.parametrize(
    ("old", "new"),
    [("seed = 7", "seed = -1"), ("seed = 7", "sed = 7"), ("average = 0.995", "average = 1")],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(DEFAULT.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=new.split(maxsplit=1)[0]):
        read_settings(file)


def test_a_missing_configuration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no configuration"):
        read_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("line", ["{", '{"query": "a"}', '{"query": "a", "positives": 3}', "[]"])
def test_a_broken_line_is_an_error(tmp_path: Path, line: str) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidInputError, match="training groups"):
        read_groups(tmp_path / "a.jsonl.gz")


def test_windows_cover_the_text_and_end_with_sentences() -> None:
    settings = read_settings().prepare.model_copy(update={"windows": 99})
    windows = windows_of(TEXT, settings)
    assert len(windows) > 3
    assert all(len(one.split()) <= settings.window_words for one in windows)
    assert all(one.endswith(".") for one in windows)
    assert all(f"Sentence number {at} " in " ".join(windows) for at in range(30))
    assert windows_of("A short text.", settings) == ["A short text."]


def test_sentences_are_whole_and_of_a_fit_length() -> None:
    settings = read_settings().prepare
    found = sentences_of(f"Too short. {TEXT}", settings)
    assert len(found) == settings.sentences
    assert all(one.startswith("Sentence") and one.endswith("bridges.") for one in found)


def test_questions_in_other_words() -> None:
    rng = np.random.default_rng(0)
    assert keywords("Who was the first king of Norway?") == "first king norway"
    assert keywords("Who is he?") == "Who is he?"
    assert casual("Who was Haakon VII?") == "who was haakon vii"
    asked = {careless("Who was the first king of independent Norway?", rng) for _ in range(30)}
    assert len(asked) > 5
    assert all("king" in one or "independent" in one for one in asked)
    cut = {phrase(TEXT, rng) for _ in range(30)} - {""}
    assert cut
    assert all(one in without_marks(TEXT) for one in cut)
    assert phrase("Too short.", rng) == ""


def test_what_is_held_out_is_not_asked_in_training(prepared: Prepared) -> None:
    assert len(prepared.validation) == 4
    held_out = {at for one in prepared.validation for at in one.positives}
    assert held_out == set(np.flatnonzero(prepared.held_out).tolist())
    assert all(held_out.isdisjoint(one.positives) for one in prepared.questions)


def test_prepared_texts_are_read_as_they_were_written(prepared: Prepared, tmp_path: Path) -> None:
    prepared.save(tmp_path)
    again = Prepared.load(tmp_path)
    assert again.questions == prepared.questions
    assert again.windows.texts == prepared.windows.texts
    assert (again.windows.passages == prepared.windows.passages).all()
    assert (again.held_out == prepared.held_out).all()
    with pytest.raises(InvalidInputError, match="run the step prepare"):
        Prepared.load(tmp_path / "elsewhere")


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path) -> None:
    folder = write_groups(tmp_path, "first", "second", groups=2)
    with pytest.raises(InvalidInputError, match="no question is left"):
        prepare([folder], small())
