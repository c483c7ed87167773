"""Code blocks of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK: Final = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class CodeBlock(NamedTuple):
    """A fenced block.

    Attributes:
        language: Language of the block.
        note: Rest of its first line. The code of a ``python before`` block uses another package,
            which need not be installed.
        code: Code of the block.
        line: Lines of the page before the code.
    """

    language: str
    note: str
    code: str
    line: int


def code_blocks(page: Path) -> list[CodeBlock]:
    """Return the fenced blocks of a page that have a language."""
    text = page.read_text(encoding="utf-8")
    return [
        CodeBlock(match[1], match[2].strip(), match[3], text.count("\n", 0, match.start(3)))
        for match in _BLOCK.finditer(text)
    ]
