"""Before the first step: fetch manuals and write their training groups."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from training.manuals.asking import Asker
from training.manuals.descriptions import descriptions
from training.manuals.messages import messages_of
from training.manuals.packages import fetch
from training.manuals.pages import Section, sections_of
from training.wording import Rng

NAME: Final = "manuals"
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
_ONLY_PROGRAMMERS_READ: Final = "api"
_WORDS: Final = (12, 220)
"""Fewest of a text, and where one is cut."""


def gather(folder: Path, seed: int) -> int:
    """Write ``manuals.jsonl.gz``; the packages are kept beside it.

    Args:
        folder: Where to.
        seed: Of the questions' forms.

    Returns:
        The number of groups.

    Raises:
        MissingDependencyError: If this is no Debian system.
        subprocess.CalledProcessError: If a package is not to be had.
    """
    rng = np.random.default_rng(seed)
    packages = folder / "packages"
    fetch(" ".join([*_PAGES.values(), *_MESSAGES.values()]).split(), packages)
    texts: dict[str, str] = {}
    for query, text in _asked(packages, rng):
        words = text.split()[: _WORDS[1]]
        if len(words) >= _WORDS[0]:
            texts.setdefault(query, " ".join(words))
    with gzip.open(folder / f"{NAME}.jsonl.gz", "wt", encoding="utf-8") as lines:
        for query, text in texts.items():
            row = {"query": query, "positives": [text], "negatives": []}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(texts)


def _asked(packages: Path, rng: Rng) -> Iterator[tuple[str, str]]:
    pages = [list(sections_of(file)) for file in _files(_PAGES, packages)]
    asker = Asker(section.text for page in pages for section in page)
    for page in pages:
        for section in page:
            for title in _titles(section, page[0]):
                yield asker.ask(title, rng), section.text
    for file in _files(_MESSAGES, packages):
        if file.parent.name != _ONLY_PROGRAMMERS_READ:
            for message, around in messages_of(file):
                yield asker.ask(message, rng), around
    for line, text in descriptions(packages):
        yield asker.look_for(line, rng), text


def _files(patterns: dict[str, str], packages: Path) -> Iterator[Path]:
    for pattern, names in patterns.items():
        for name in names.split():
            yield from sorted((packages / name).glob(pattern))


def _titles(section: Section, first: Section) -> list[str]:
    """Return what leads to a section: its title, its page's, and the page's summary."""
    titles = dict.fromkeys([section.title, first.title, section.summary])
    return [title for title in titles if len(title.split()) > 1]
