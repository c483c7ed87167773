"""One unit: read, ranked, written; and parts of a long list put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rerank_plugins import Ranking, Reranker
from rerank_plugins.batch.folder import Folder, Record
from rerank_plugins.batch.plan import Unit
from rerank_plugins.batch.rows import BadRowError, Task, Unreadable, read_row
from rerank_plugins.batch.sources import Row, read_rows
from rerank_plugins.errors import (
    InferenceError,
    InvalidInputError,
    InvalidScoresError,
    OutOfMemoryError,
)

_ROW_FAULTS: Final = (InvalidInputError, InvalidScoresError, OutOfMemoryError)
"""Errors that one row alone can cause; any other stops the run, and nothing is lost."""


def do_unit(unit: Unit, reranker: Reranker, folder: Folder) -> None:
    """Rank the rows of a unit and write the results.

    Raises:
        InvalidInputError: If the input has changed since it was planned.
        RerankError: If the model fails whatever it is asked.
    """
    rows = read_rows(Path(unit.path), unit.first, unit.offset, unit.rows)
    if len(rows) != unit.rows:
        message = f"{unit.path} has fewer rows than before; run the batch again."
        raise InvalidInputError(message)
    checked = [(row, _checked(row, unit)) for row in rows]
    good = [(row, task) for row, task in checked if isinstance(task, Task)]
    dead = [_letter(unit, row, bad) for row, bad in checked if isinstance(bad, str)]
    ranked: list[Record] = []
    for (row, task), ranking in zip(good, _rank(reranker, [task for _, task in good]), strict=True):
        if isinstance(ranking, Ranking):
            ranked.append(_record(unit, row, task, ranking))
        else:
            dead.append(_letter(unit, row, str(ranking)))
    results = folder.results if unit.part is None else folder.parts
    results.write(unit.key, ranked, dead)


def merge_parts(parts: Sequence[Unit], folder: Folder, top_n: int | None) -> None:
    """Put the parts of one row together: the order is that of the whole list.

    A part has its best ``top_n``, and the best of the whole are among those. If a part could
    not be ranked, the row is a dead letter.
    """
    ranked: list[Record] = []
    dead: list[Record] = []
    for part in parts:
        of_part = folder.parts.read(part.key)
        ranked += of_part[0]
        dead += of_part[1]
    if dead:
        folder.results.write(parts[0].whole, [], dead[:1])
        return
    documents = [document for record in ranked for document in record["ranking"]]
    documents.sort(key=lambda one: (-one["raw_score"], one["index"]))
    merged = {**ranked[0], "ranking": documents[:top_n]}
    folder.results.write(parts[0].whole, [merged], [])


def _rank(reranker: Reranker, tasks: list[Task]) -> list[Ranking | Exception]:
    """Rank together; if that fails, one by one, to find the row that is at fault."""
    try:
        return list(reranker.rank_many([(task.query, task.texts) for task in tasks]))
    except _ROW_FAULTS:
        return [_alone(reranker, task) for task in tasks]


def _alone(reranker: Reranker, task: Task) -> Ranking | Exception:
    try:
        return reranker.rank(task.query, task.texts)
    except _ROW_FAULTS as error:
        return error


def _checked(row: Row, unit: Unit) -> Task | str:
    """Return what of a row belongs to the unit, or why it cannot be ranked."""
    try:
        task = read_row(row.value)
    except BadRowError as error:
        return str(error)
    if unit.part is None:
        return task
    first, last = unit.part
    return task._replace(texts=task.texts[first:last], ids=task.ids[first:last])


def _record(unit: Unit, row: Row, task: Task, ranking: Ranking) -> Record:
    shift = 0 if unit.part is None else unit.part[0]
    documents = []
    for one in ranking:
        if not one.scored:
            message = f"row {row.number} of {unit.source} was not scored whole."
            raise InferenceError(message)
        documents.append(
            {
                "index": one.index + shift,
                "id": task.ids[one.index],
                "relevance_score": one.relevance_score,
                "raw_score": one.raw_score,
                "truncated": one.truncated,
                "text": one.text,
            }
        )
    return {
        "source": unit.source,
        "row": row.number,
        "query": task.query,
        "ranking": documents,
        "fields": json.dumps(task.fields, default=str),
    }


def _letter(unit: Unit, row: Row, reason: str) -> Record:
    content = row.value.raw if isinstance(row.value, Unreadable) else row.value
    return {"source": unit.source, "row": row.number, "reason": reason, "content": content}
