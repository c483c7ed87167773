"""Groups out of manuals: pages, messages, descriptions of packages, and the questions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rerank_plugins.errors import MissingDependencyError
from training.__main__ import app
from training.manuals.asking import Asker
from training.manuals.descriptions import read_records
from training.manuals.messages import messages_of
from training.manuals.packages import fetch, unpack
from training.manuals.pages import sections_of
from training.settings import DEFAULT

MALLARD = """<page xmlns="http://projectmallard.org/1.0/" type="topic">
 <info><credit><name>A person</name></credit><desc>Keep your account safe.</desc></info>
 <title>Change your password</title>
 <comment><p>To be written.</p></comment>
 <p>Open <app>Settings</app> and
    click Users.</p>
 <section><title>On the command line</title>
  <steps><item><p>Type passwd.</p></item></steps></section>
</page>"""
HTML = """<?xml version="1.0" encoding="UTF-8"?>
<html><head><title>Program help</title></head><body><nav><p>Contents</p></nav>
<h1>Creating lists</h1><ul><li><p>Choose Format.</p></li><li>Press Enter.</li></ul>
<h2>Empty</h2><h2>Ending lists\u00b6</h2><p>Press Enter again.</p></body></html>"""


@pytest.fixture(scope="module")
def asker() -> Asker:
    sentences = ["to change it, or to create a list, go to the page", "the text, the box, the side"]
    return Asker([*sentences, *sentences[1:] * 3] * 9)


def forms(asker: Asker, title: str) -> set[str]:
    return {asker.ask(title, np.random.default_rng(seed)) for seed in range(40)}


def test_a_page_of_mallard_is_read_by_sections(tmp_path: Path) -> None:
    file = tmp_path / "a.page"
    file.write_text(MALLARD)
    first, second = sections_of(file)
    assert (first.title, first.summary) == ("Change your password", "Keep your account safe.")
    assert first.text == "Open Settings and click Users."
    assert (second.title, second.summary) == ("On the command line", "")
    assert second.text == "Type passwd."


def test_a_page_of_html_is_read_by_headings(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    file.write_text(HTML, encoding="utf-8")
    found = [(one.title, one.text) for one in sections_of(file)]
    assert found == [
        ("Creating lists", "Choose Format. Press Enter."),
        ("Ending lists", "Press Enter again."),
    ]


@pytest.mark.parametrize("title", ["Change your password", "Changing your password"])
def test_a_task_becomes_a_question_of_the_one_who_has_it(asker: Asker, title: str) -> None:
    found = forms(asker, title)
    assert "How do I change my password?" in found
    assert all("change my password" in one for one in found)


@pytest.mark.parametrize("title", ["Text boxes", "The left side", "Change", "Password"])
def test_a_title_without_a_task_stays(asker: Asker, title: str) -> None:
    assert forms(asker, title) == {title}


def test_a_program_is_looked_for(asker: Asker) -> None:
    found = {asker.look_for("mail reader", np.random.default_rng(seed)) for seed in range(40)}
    assert {"Is there any mail reader?", "mail reader"} < found
    assert "change my" in asker.look_for("change your address", np.random.default_rng(1))


def test_messages_with_markup_or_of_few_words_are_left_out(tmp_path: Path) -> None:
    kept = ["Show me the changes that others made", "Send me an email about my own changes"]
    texts = {"a": kept[0], "b": "Watch", "c": "See [[this page]] for all of it now", "d": kept[1]}
    file = tmp_path / "en.json"
    file.write_text(json.dumps({"@metadata": {"authors": []}, **texts}))
    assert list(messages_of(file)) == [(one, " ".join(kept)) for one in kept]


def test_records_of_a_list_of_packages() -> None:
    listed = (
        "Package: a\nSection: web\n\nPackage: b\nDescription-en: reads\n It reads.\n .\n All.\n"
    )
    assert list(read_records(listed)) == [
        {"Package": "a", "Section": "web"},
        {"Package": "b", "Description-en": "reads\n It reads.\n .\n All."},
    ]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's dpkg-deb")
def test_a_package_is_unpacked(tmp_path: Path) -> None:
    control = tmp_path / "made" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: small\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.example>\n"
        "Description: small\n"
    )
    (tmp_path / "made" / "help.page").write_text(MALLARD)
    file = tmp_path / "small.deb"
    build = ["dpkg-deb", "--build", str(tmp_path / "made"), str(file)]
    subprocess.run(build, check=True, capture_output=True)  # noqa: S603
    (tmp_path / "kept" / "small").mkdir(parents=True)
    unpack(file, tmp_path / "kept" / "small")
    fetch(["small"], tmp_path / "kept")  # it is there: nothing is fetched
    assert (tmp_path / "kept" / "small" / "help.page").read_text() == MALLARD


def test_without_debians_tools_the_way_on_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"leave \[sources.manuals\] out"):
        fetch(["small"], tmp_path)


def test_nothing_is_fetched_for_a_configuration_without_manuals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # fetching would be an error
    text = DEFAULT.read_text(encoding="utf-8")
    config = tmp_path / "config.toml"
    config.write_text(text[: text.index("[sources.manuals]")], encoding="utf-8")
    found = CliRunner().invoke(app, ["manuals", str(tmp_path / "to"), "--config", str(config)])
    assert found.exit_code == 0
    assert "nothing to fetch" in found.output
    assert not (tmp_path / "to").exists()
