"""Sections of manuals, in Mallard or HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bs4 import BeautifulSoup, Tag

_HEADINGS: Final = ["title", "h1", "h2", "h3", "h4"]
_BLOCKS: Final = ["p", "li", "dd", "dt"]
_NOT_READ: Final = ["comment", "credit", "head", "header", "footer", "nav", "script", "table"]
_DECLARATION: Final = re.compile(r"^\s*<\?xml[^>]*\?>")


@dataclass
class Section:
    """A part of a page.

    Attributes:
        title: What stands above it.
        summary: What the page says of itself in a sentence, if it is its first section.
        paragraphs: Its text.
    """

    title: str
    summary: str = ""
    paragraphs: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return its paragraphs as one text."""
        return " ".join(self.paragraphs)


def sections_of(file: Path) -> Iterator[Section]:
    """Read the sections of a page that have a text."""
    marked = file.read_text(encoding="utf-8", errors="replace")
    marked = _DECLARATION.sub("", marked)  # a page in XHTML is read as HTML
    page = BeautifulSoup(marked, "lxml" if file.suffix == ".html" else "lxml-xml")
    for tag in page.find_all(_NOT_READ):
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
