"""Cutting a batch into requests: one query each, and no more than the server takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rerank_plugins.core.protocols import Prepared
from rerank_plugins.core.tracing import Trace


@dataclass(frozen=True, eq=False)
class Call:
    """A call that prepared pairs, and the trace of whoever asked for them."""

    trace: Trace | None


class Text(NamedTuple):
    """A prepared pair.

    Attributes:
        call: The call that prepared it. Pairs of different calls may be different callers', and
            are not sent together: what is wrong with one pair fails its whole request.
        query: The query, cut.
        document: The document, cut.
    """

    call: Call
    query: str
    document: str


@dataclass(frozen=True)
class Chunk:
    """One request.

    Attributes:
        rows: Positions of its documents in the batch.
        query: The query.
        documents: The documents.
        trace: That of whoever asks.
    """

    rows: list[int]
    query: str
    documents: list[str]
    trace: Trace | None = None


def chunks(batch: Sequence[Prepared], max_documents: int) -> list[list[Chunk]]:
    """Return the requests of a batch, those of one caller and query in one list.

    They are of like length. The engine's budget keeps a batch well below the megabytes that
    servers take; a document beyond them is in a batch of its own, for the server to decide.
    """
    groups: dict[tuple[int, str], list[int]] = {}
    for row, one in enumerate(batch):
        groups.setdefault((id(one.payload.call), one.payload.query), []).append(row)
    return [
        [
            Chunk(
                rows,
                query,
                [batch[row].payload.document for row in rows],
                batch[rows[0]].payload.call.trace,
            )
            for rows in _cut(group, max_documents)
        ]
        for (_, query), group in groups.items()
    ]


def _cut(rows: list[int], max_documents: int) -> list[list[int]]:
    length = math.ceil(len(rows) / math.ceil(len(rows) / max_documents))
    return [rows[start : start + length] for start in range(0, len(rows), length)]
