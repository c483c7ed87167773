"""Progress bars for long work."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final, TypeVar

T = TypeVar("T")

LONG: Final = 2_000
"""So many items are long work: several seconds on a CPU."""


def chunks(
    items: Sequence[T], size: int, title: str, *, show: bool | None
) -> Iterator[Sequence[T]]:
    """Yield slices of the items, with a progress bar on standard error where wanted.

    Args:
        items: What is worked on.
        size: Items a slice.
        title: What the bar says.
        show: Whether to show the bar; None shows it for long work in a terminal.
    """
    from tqdm.auto import tqdm  # noqa: PLC0415  (keeps importing this package cheap)

    if show is None:
        show = len(items) >= LONG and sys.stderr.isatty()
    with closing(tqdm(total=len(items), desc=title, unit="text", disable=not show)) as bar:
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part
            bar.update(len(part))
