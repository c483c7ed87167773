"""Division of a batch into row groups of nearly equal length, and their padded inputs.

The CPU plugin compiles kernels for every new input shape and keeps them, which costs more than one
computation. So there are few shapes: widths are multiples of 16, and groups have 1, 2 or 4 rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.torch.tokenization import TokenPair

_WIDTH_STEP: Final = 16

_MAX_ROWS: Final = 4
"""Larger groups are no faster, and leave streams idle at the end of a batch."""


class RowGroup(NamedTuple):
    """Rows that are computed together.

    Attributes:
        rows: Their positions in the batch.
        width: Number of tokens to which each row is padded.
    """

    rows: list[int]
    width: int


def group_rows(lengths: Sequence[int], max_seq_length: int, streams: int) -> list[RowGroup]:
    """Divide a batch into groups of rows of nearly equal length, the most expensive first.

    Args:
        lengths: Number of tokens of each row.
        max_seq_length: Maximum sequence length of the model.
        streams: Number of groups that are computed at once.
    """
    max_rows = max(1, min(_MAX_ROWS, len(lengths) // streams))
    longest_first = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups = []
    for width, rows in groupby(
        longest_first,
        lambda row: min(-(-lengths[row] // _WIDTH_STEP) * _WIDTH_STEP, max_seq_length),
    ):
        groups += [RowGroup(part, width) for part in _split(list(rows), max_rows)]
    return sorted(groups, key=lambda group: -len(group.rows) * group.width)


def _split(rows: list[int], max_rows: int) -> Iterator[list[int]]:
    """Yield parts of 4, 2 or 1 rows."""
    while rows:
        size = 1 << (min(len(rows), max_rows).bit_length() - 1)
        yield rows[:size]
        rows = rows[size:]


class InputBuilder(NamedTuple):
    """Builds the padded inputs of a model.

    Attributes:
        pad_id: Token id of padding.
        inputs: Number of inputs: ids, mask and, if there are three, token types.
        typed: Whether the tokenizer's token types are used; otherwise all types are 0.
    """

    pad_id: int
    inputs: int
    typed: bool

    def __call__(self, pairs: Sequence[TokenPair], width: int) -> list[NDArray[np.int64]]:
        """Return int64 arrays of shape ``(len(pairs), width)``, padded on the right."""
        ids = np.full((len(pairs), width), self.pad_id, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            ids[row, : len(pair.ids)] = pair.ids
            mask[row, : len(pair.ids)] = 1
            if self.typed:
                types[row, : len(pair.ids)] = pair.types
        return [ids, mask, types][: self.inputs]
