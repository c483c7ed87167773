"""What a web application tells its users: MediaWiki's messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MARKUP: Final = re.compile(r"[{}<>|\[\]$\\]|''|\n|&\w+;|https?:")
_LENGTH: Final = (5, 40)
_AROUND: Final = 2


def messages_of(file: Path) -> Iterator[tuple[str, str]]:
    """Read messages without markup, each with the ones that stand around it."""
    read = json.loads(file.read_text(encoding="utf-8"))
    plain = [
        text
        for text in read.values()
        if isinstance(text, str)
        and not _MARKUP.search(text)
        and _LENGTH[0] <= len(text.split()) <= _LENGTH[1]
    ]
    for at, text in enumerate(plain):
        yield text, " ".join(plain[max(at - _AROUND, 0) : at + _AROUND + 1])
