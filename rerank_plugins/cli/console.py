"""Terminal output: consoles, messages and progress bars.

Results go to standard output; messages and progress bars go to standard error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

out: Final = Console()
err: Final = Console(stderr=True)


def print_message(message: str) -> None:
    """Print a warning or an error of the command to standard error, on one line."""
    err.print(f"rerank-plugins: {message}", markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""Return a text on one line, without the characters that control a terminal.

    >>> printable("a\n\x1b[31mb\ud800")
    'a [31mb'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress bars while the block runs, if standard error is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield bars
