"""What Debian says of the programs that people use: a line and some paragraphs of each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SECTIONS: Final = frozenset(
    {"admin", "comm", "database", "editors", "games", "gnome", "graphics", "hamradio", "httpd"}
    | {"kde", "mail", "misc", "net", "news", "php", "science", "sound", "text", "utils", "vcs"}
    | {"video", "web", "x11", "xfce"}
)
_HELPER: Final = "/usr/lib/apt/apt-helper"
_ONE_OF_SEVERAL: Final = re.compile(r"\(.*\)$|\b(?:data|files|library|module|plugin|package)s?\b")


def descriptions(folder: Path) -> Iterator[tuple[str, str]]:
    """Fetch the list of packages and yield what each is in a line, and its description.

    Raises:
        subprocess.CalledProcessError: If the list is not to be had.
    """
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-o", "Acquire::Languages=en", "-o", f"Dir::State::lists={lists}"]
    subprocess.run(["apt-get", "-q", *options, "update"], check=True)  # noqa: S603, S607
    used = {
        record["Package"]
        for record in _records(lists, "*Packages*")
        if record["Section"].rpartition("/")[2] in _SECTIONS
    }
    seen = set()
    for record in _records(lists, "*Translation-en*"):
        line, _, text = record["Description-en"].partition("\n")
        text = " ".join(text.replace("\n .\n", "\n").split())
        if record["Package"] in used and not _ONE_OF_SEVERAL.search(line) and text not in seen:
            seen.add(text)
            yield line, text


def read_records(listed: str) -> Iterator[dict[str, str]]:
    """Read records of Debian's form: fields, whose further lines begin with a space."""
    for record in listed.strip().split("\n\n"):
        fields = re.split(r"\n(?! )", record)
        yield dict(field.split(": ", 1) for field in fields if ": " in field)


def _records(lists: Path, pattern: str) -> Iterator[dict[str, str]]:
    for file in sorted(lists.glob(pattern)):
        command = [_HELPER, "cat-file", str(file)]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
        yield from read_records(listed)
