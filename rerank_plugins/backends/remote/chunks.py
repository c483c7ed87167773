"""Cutting a batch into requests: one query each, and no more than the server takes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rerank_plugins.core.protocols import Prepared


class Text(NamedTuple):
    """A prepared pair.

    Attributes:
        call: The call that prepared it. Pairs of different calls may be different callers', and
            are not sent together: what is wrong with one pair fails its whole request.
        query: The query, cut.
        document: The document, cut.
    """

    call: object
    query: str
    document: str


@dataclass(frozen=True)
class Chunk:
    """One request.

    Attributes:
        rows: Positions of its documents in the batch.
        query: The query.
        documents: The documents.
    """

    rows: list[int]
    query: str
    documents: list[str]


def chunks(batch: Sequence[Prepared], max_documents: int, max_bytes: int) -> list[list[Chunk]]:
    """Return the requests of a batch, those of one caller and query in one list.

    A document beyond ``max_bytes`` makes a request of its own, for the server to decide.
    """
    groups: dict[tuple[int, str], list[int]] = {}
    for row, one in enumerate(batch):
        groups.setdefault((id(one.payload.call), one.payload.query), []).append(row)
    return [
        [
            Chunk(rows, query, [batch[row].payload.document for row in rows])
            for rows in _cut(group, batch, max_documents, max_bytes - _size(query))
        ]
        for (_, query), group in groups.items()
    ]


def _cut(
    rows: list[int], batch: Sequence[Prepared], max_documents: int, max_bytes: int
) -> list[list[int]]:
    """Cut rows into parts of like length, each within the limits."""
    length = math.ceil(len(rows) / math.ceil(len(rows) / max_documents))
    parts: list[list[int]] = [[]]
    size = 0
    for row in rows:
        own = _size(batch[row].payload.document)
        if parts[-1] and (len(parts[-1]) == length or size + own > max_bytes):
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += own
    return parts


def _size(text: str) -> int:
    """Return the bytes of a text in JSON, with some for what is around it."""
    return len(json.dumps(text, ensure_ascii=False).encode()) + 32
