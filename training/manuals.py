"""Step ``manuals``: training groups from the manuals of free software.

Encyclopedias, the source of most training groups, rarely cover accounts, mail, files and settings.
Manuals in Debian packages do, under licenses that allow training on them. A section, a message or
a package description answers the question that is generated from its title.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from bs4 import BeautifulSoup, Tag

from rerank_plugins.errors import MissingDependencyError
from training.augmentation import Rng

SOURCE: Final = "manuals"
_PAGES: Final = {
    "usr/share/help/C/**/*.page": (
        "gnome-user-docs evolution-common epiphany-browser-data gedit-common shotwell-common "
        "brasero-common cheese-common eog evince-common file-roller gnome-terminal-data "
        "gthumb-data gnome-boxes seahorse simple-scan orca gnote gnome-music gnome-clocks polari "
        "deja-dup meld totem-common baobab gnome-system-monitor"
    ),
    "usr/share/libreoffice/help/en-US/text/**/*.html": "libreoffice-help-en-us",
    "usr/share/freedombox/manual/en/*.part.html": "freedombox-doc-en",
    "usr/share/doc/nextcloud-desktop/html/*.html": "nextcloud-desktop-doc",
    "usr/share/doc/debian/FAQ/*.en.html": "debian-faq",
    "usr/share/doc/**/*.html": "mailman3-doc",
}
_MESSAGES: Final = {"usr/share/mediawiki/**/i18n/**/en.json": "mediawiki"}
_API_MESSAGES: Final = "api"
"""Folder of messages for programmers."""
_MIN_WORDS: Final = 12
_MAX_WORDS: Final = 220

_HEADINGS: Final = ["title", "h1", "h2", "h3", "h4"]
_BLOCKS: Final = ["p", "li", "dd", "dt"]
_SKIPPED: Final = ["comment", "credit", "head", "header", "footer", "nav", "script", "table"]
_XML_DECLARATION: Final = re.compile(r"^\s*<\?xml[^>]*\?>")

_MARKUP: Final = re.compile(r"[{}<>|\[\]$\\]|''|\n|&\w+;|https?:")
_MESSAGE_WORDS: Final = (5, 40)
_MESSAGE_NEIGHBORS: Final = 2

_SECTIONS: Final = frozenset(
    {"admin", "comm", "database", "editors", "games", "gnome", "graphics", "hamradio", "httpd"}
    | {"kde", "mail", "misc", "net", "news", "php", "science", "sound", "text", "utils", "vcs"}
    | {"video", "web", "x11", "xfce"}
)
_APT_HELPER: Final = "/usr/lib/apt/apt-helper"
_PART_OF_PROGRAM: Final = re.compile(r"\(.*\)$|\b(?:data|files|library|module|plugin|package)s?\b")

_TASK_QUESTIONS: Final = (
    "How do I {}?",
    "How can I {}?",
    "How to {}?",
    "Is there a way to {}?",
    "Is it possible to {}?",
    "I want to {}.",
    "What is the easiest way to {}?",
    "I would like to {}, how is that done?",
    "{}",
)
_PROGRAM_QUESTIONS: Final = (
    "What can I use as {}?",
    "Is there any {}?",
    "I am looking for {}.",
    "Does anyone know a good {}?",
    "Which is the best {}?",
    "{}",
    "{}",
)
_FIRST_PERSON: Final = {"your": "my", "yours": "mine", "yourself": "myself", "you": "I"}
_SECOND_PERSON: Final = re.compile(r"\b(?:yours|yourself|your|you)\b", re.IGNORECASE)
_WORD: Final = re.compile(r"\b[a-z]{2,}\b")
_AFTER_TO: Final = re.compile(r"\bto ([a-z]{2,})\b")
_MIN_AFTER_TO: Final = 5
_MIN_FRACTION_AFTER_TO: Final = 0.12


def write_groups(folder: Path, seed: int) -> int:
    """Write ``manuals.jsonl.gz``; downloaded packages are kept in the same folder.

    Args:
        folder: Destination.
        seed: Seed of the forms of the questions.

    Returns:
        The number of groups.

    Raises:
        MissingDependencyError: If this is not a Debian system.
        subprocess.CalledProcessError: If a package is not available.
    """
    rng = np.random.default_rng(seed)
    packages = folder / "packages"
    fetch_packages(" ".join([*_PAGES.values(), *_MESSAGES.values()]).split(), packages)
    texts: dict[str, str] = {}
    for question, text in _questions(packages, rng):
        words = text.split()[:_MAX_WORDS]
        if len(words) >= _MIN_WORDS:
            texts.setdefault(question, " ".join(words))
    with gzip.open(folder / f"{SOURCE}.jsonl.gz", "wt", encoding="utf-8") as lines:
        for question, text in texts.items():
            group = {"query": question, "positives": [text], "negatives": []}
            lines.write(json.dumps(group, ensure_ascii=False) + "\n")
    return len(texts)


def _questions(packages: Path, rng: Rng) -> Iterator[tuple[str, str]]:
    pages = [list(sections_of(file)) for file in _files(_PAGES, packages)]
    generator = TitleQuestions(section.text for page in pages for section in page)
    for page in pages:
        for section in page:
            for title in _titles(section, page[0]):
                yield generator.task_question(title, rng), section.text
    for file in _files(_MESSAGES, packages):
        if file.parent.name != _API_MESSAGES:
            for message, context in messages_of(file):
                yield generator.task_question(message, rng), context
    for summary, text in _package_descriptions(packages):
        yield generator.program_question(summary, rng), text


def _files(patterns: dict[str, str], packages: Path) -> Iterator[Path]:
    for pattern, names in patterns.items():
        for name in names.split():
            yield from sorted((packages / name).glob(pattern))


class TitleQuestions:
    """Generator of questions from titles; its verbs are the words that often follow "to"."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Count the words that follow "to".

        Args:
            texts: Texts of the manuals.
        """
        after_to: Counter[str] = Counter()
        anywhere: Counter[str] = Counter()
        for text in texts:
            after_to.update(_AFTER_TO.findall(text))
            anywhere.update(_WORD.findall(text.lower()))
        self._verbs = {
            word
            for word, count in after_to.items()
            if count >= max(_MIN_AFTER_TO, _MIN_FRACTION_AFTER_TO * anywhere[word])
        }

    def task_question(self, title: str, rng: Rng) -> str:
        """Return a question about the task of a title, or the title if it has no task."""
        task = self._task(title)
        if task is None:
            return title
        return str(rng.choice(_TASK_QUESTIONS)).format(_SECOND_PERSON.sub(_first_person, task))

    def program_question(self, summary: str, rng: Rng) -> str:
        """Return a question for a program from its one-line summary."""
        if self._task(summary) is not None:
            return self.task_question(summary, rng)
        return str(rng.choice(_PROGRAM_QUESTIONS)).format(summary)

    def _task(self, title: str) -> str | None:
        first, _, rest = title.rstrip(". ").partition(" ")
        if first == "To":
            first, _, rest = rest.partition(" ")
        verb = self._infinitive(first.lower())
        return f"{verb} {rest}" if verb and rest else None

    def _infinitive(self, word: str) -> str | None:
        if word.endswith("ing"):
            stem = word[:-3]
            forms = [stem, stem + "e", stem[:-1]]
            return next((form for form in forms if form in self._verbs), None)
        return word if word in self._verbs else None


def _first_person(match: re.Match[str]) -> str:
    return _FIRST_PERSON[match[0].lower()]


@dataclass
class Section:
    """A section of a page.

    Attributes:
        title: Its heading.
        summary: The page's one-sentence summary, in the first section only.
        paragraphs: Its text.
    """

    title: str
    summary: str = ""
    paragraphs: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The paragraphs as one text."""
        return " ".join(self.paragraphs)


def sections_of(file: Path) -> Iterator[Section]:
    """Read the sections of a page in Mallard or HTML that have a text."""
    content = file.read_text(encoding="utf-8", errors="replace")
    content = _XML_DECLARATION.sub("", content)  # XHTML is parsed as HTML
    page = BeautifulSoup(content, "lxml" if file.suffix == ".html" else "lxml-xml")
    for tag in page.find_all(_SKIPPED):
        tag.decompose()
    summary = page.find("desc")
    section = Section("", _plain(summary) if summary else "")
    for tag in page.find_all(_HEADINGS + _BLOCKS):
        if tag.name in _HEADINGS:
            if section.paragraphs:
                yield section
                section = Section("")
            section.title = _plain(tag)
        elif tag.find(_BLOCKS) is None:
            section.paragraphs += filter(None, [_plain(tag)])
    if section.paragraphs:
        yield section


def _plain(tag: Tag) -> str:
    return " ".join(tag.get_text().split()).strip(" \u00b6#")


def _titles(section: Section, first: Section) -> list[str]:
    """Return the titles of more than one word: of the section, its page, and the summary."""
    titles = dict.fromkeys([section.title, first.title, section.summary])
    return [title for title in titles if len(title.split()) > 1]


def messages_of(file: Path) -> Iterator[tuple[str, str]]:
    """Read MediaWiki messages without markup, each with the messages around it."""
    shortest, longest = _MESSAGE_WORDS
    messages = [
        text
        for text in json.loads(file.read_text(encoding="utf-8")).values()
        if isinstance(text, str)
        and not _MARKUP.search(text)
        and shortest <= len(text.split()) <= longest
    ]
    for row, text in enumerate(messages):
        start, end = max(row - _MESSAGE_NEIGHBORS, 0), row + _MESSAGE_NEIGHBORS + 1
        yield text, " ".join(messages[start:end])


def fetch_packages(names: Sequence[str], folder: Path) -> None:
    """Download and unpack packages that are not there yet, each into a folder of its name.

    Args:
        names: Names of the packages.
        folder: Destination.

    Raises:
        MissingDependencyError: If this is not a Debian system.
        subprocess.CalledProcessError: If a package is not available.
    """
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing and shutil.which("apt-get") is None:
        message = (
            "the manuals are fetched from Debian's packages, and this system has no apt-get. Run "
            "this step on one that has, or leave [sources.manuals] out of the configuration."
        )
        raise MissingDependencyError(message)
    for name in missing:
        unfinished = folder / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "--quiet", name], cwd=unfinished, check=True)  # noqa: S603, S607
        (file,) = unfinished.glob("*.deb")
        command = ["dpkg-deb", "--extract", str(file), str(unfinished)]
        subprocess.run(command, check=True)  # noqa: S603
        file.unlink()
        unfinished.rename(folder / name)


def _package_descriptions(folder: Path) -> Iterator[tuple[str, str]]:
    """Download Debian's package list and yield the summary and description of each program."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", "Acquire::Languages=en", "-o", f"Dir::State::lists={lists}"]
    subprocess.run(["apt-get", "-q", *options, "update"], check=True)  # noqa: S603, S607
    programs = {
        record["Package"]
        for record in _records(lists, "*Packages*")
        if record["Section"].rpartition("/")[2] in _SECTIONS
    }
    seen = set()
    for record in _records(lists, "*Translation-en*"):
        summary, _, text = record["Description-en"].partition("\n")
        text = " ".join(text.replace("\n .\n", "\n").split())
        if record["Package"] not in programs or _PART_OF_PROGRAM.search(summary):
            continue
        if text not in seen:
            seen.add(text)
            yield summary, text


def _records(lists: Path, pattern: str) -> Iterator[dict[str, str]]:
    for file in sorted(lists.glob(pattern)):
        command = [_APT_HELPER, "cat-file", str(file)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
        yield from parse_records(output)


def parse_records(text: str) -> Iterator[dict[str, str]]:
    """Parse records of Debian's control format; continuation lines start with a space."""
    for record in text.strip().split("\n\n"):
        fields = re.split(r"\n(?! )", record)
        yield dict(line.split(": ", 1) for line in fields if ": " in line)
