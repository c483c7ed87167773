"""Where the command line writes: results to standard output, the rest to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

out: Final = Console()
err: Final = Console(stderr=True)


def printable(text: str) -> str:
    r"""Return the text on one line, without what would control a terminal.

    >>> printable("a\n\x1b[31mb\ud800")
    'a [31mb'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress bars on standard error while the block runs; nothing where it is a file."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield bars
