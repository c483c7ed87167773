"""How a batch is cut for OpenVINO: few widths, little padding, enough parts for all streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_STEP: Final = 16
"""Widths are multiples of this: the CPU plugin prepares kernels for each new shape, which
costs more than computing it once, and keeps them."""

_MOST_ROWS: Final = 4
"""More rows at once are no faster, and leave streams without work at the end."""


class Group(NamedTuple):
    """Rows that are computed together.

    Attributes:
        rows: Their positions in the batch.
        width: Tokens to which each is filled up.
    """

    rows: list[int]
    width: int


def groups(lengths: Sequence[int], reach: int, streams: int) -> list[Group]:
    """Cut a batch into groups of nearly equal length, the longest first.

    Args:
        lengths: Tokens of each row.
        reach: Most tokens the model can read.
        streams: How many groups are computed at once.
    """
    most = max(1, min(_MOST_ROWS, len(lengths) // streams))
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    found = []
    for width, run in groupby(order, lambda row: min(-(-lengths[row] // _STEP) * _STEP, reach)):
        found += [Group(rows, width) for rows in _powers(list(run), most)]
    return sorted(found, key=lambda group: -len(group.rows) * group.width)


def padded(arrays: Sequence[NDArray[np.int32]], width: int, fill: int) -> NDArray[np.int64]:
    """Return arrays of different lengths as rows, filled up on the right."""
    table = np.full((len(arrays), width), fill, dtype=np.int64)
    for row, array in zip(table, arrays, strict=True):
        row[: len(array)] = array
    return table


def _powers(rows: list[int], most: int) -> Iterator[list[int]]:
    """Yield parts of 4, 2 or 1 rows: each count of rows is a shape of its own."""
    while rows:
        size = 1 << (min(len(rows), most).bit_length() - 1)
        yield rows[:size]
        rows = rows[size:]
