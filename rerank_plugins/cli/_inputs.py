"""Documents to rank: lines, JSONL or a folder of text files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from rerank_plugins.errors import InvalidInputError

STDIN: Final = "-"
TEXT_FIELDS: Final = ("text", "content")
TEXT_FILES: Final = (".txt", ".md", ".rst")


class Item(NamedTuple):
    """A document: the text to score, the fields to show with it, and its name, if any."""

    text: str
    fields: dict[str, Any]
    name: str = ""


def read_items(source: str, *, jsonl: bool) -> list[Item]:
    """Read the documents of a file, of standard input or of a folder.

    Args:
        source: A file, a folder or ``"-"``.
        jsonl: Whether the input is JSONL; a file named ``*.jsonl`` always is.

    Raises:
        InvalidInputError: If it cannot be read or is not what it should be.
    """
    path = Path(source)
    if source != STDIN and path.is_dir():
        return _folder(path)
    text = _stdin() if source == STDIN else _file(path)
    # Not splitlines(): U+2028 and the like end no line of a file.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if jsonl or path.suffix == ".jsonl":
        return [_json(line, f"{source}, line {number}") for number, line in numbered]
    return [Item(line, {"line": number, "text": line}) for number, line in numbered]


def _folder(folder: Path) -> list[Item]:
    files = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in TEXT_FILES and file.is_file()
    )
    if not files:
        message = f"{folder} holds no text file ({', '.join(TEXT_FILES)})."
        raise InvalidInputError(message)
    items = []
    for file in files:
        text, name = _file(file), str(file.relative_to(folder))
        items.append(Item(text, {"path": name, "text": text}, name))
    return items


def _file(file: Path) -> str:
    try:
        return _decode(file.read_bytes(), str(file))
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}. Give a file, a folder or - for stdin."
        raise InvalidInputError(message) from error


def _stdin() -> str:
    return _decode(sys.stdin.buffer.read(), "standard input")


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8 text (byte {error.start}). Convert it first."
        raise InvalidInputError(message) from error


def _json(line: str, where: str) -> Item:
    try:
        fields = json.loads(line)
    except ValueError as error:
        message = f"{where}: not JSON ({error})."
        raise InvalidInputError(message) from error
    if isinstance(fields, dict):
        for name in TEXT_FIELDS:
            if isinstance(fields.get(name), str):
                return Item(fields[name], fields)
    message = f"{where}: expected an object with its text in {' or '.join(TEXT_FIELDS)}."
    raise InvalidInputError(message)
