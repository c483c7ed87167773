"""Files that are there whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from rerank_plugins.errors import InvalidInputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once: whoever reads it sees the old content or the new one.

    Raises:
        InvalidInputError: If it cannot be written.
    """
    half = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            half.write_bytes(content)
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        message = f"{path} cannot be written: {error}"
        raise InvalidInputError(message) from error


def write_text(path: Path, content: str) -> None:
    """Write a text file at once; see :func:`write_bytes`."""
    write_bytes(path, content.encode("utf-8"))
