"""Progress bars for long operations."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, TypeVar

T = TypeVar("T")

_LONG: Final = 2_000
"""Number of items from which a progress bar is shown: several seconds on a CPU."""


def chunks(
    items: Sequence[T], size: int, title: str, *, show: bool | None
) -> Iterator[Sequence[T]]:
    """Yield slices of the items, with an optional progress bar on standard error.

    Args:
        items: The items.
        size: Number of items per slice.
        title: Label of the progress bar.
        show: Whether to show the bar; None shows it for many items in a terminal.
    """
    from tqdm.auto import tqdm  # noqa: PLC0415  (keeps the import of this package cheap)

    if show is None:
        show = len(items) >= _LONG and sys.stderr.isatty()
    with closing(tqdm(total=len(items), desc=title, unit="text", disable=not show)) as bar:
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part
            bar.update(len(part))
