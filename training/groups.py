"""The training groups as they are published: a question, what answers it, what does not."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Final, NamedTuple

from rerank_plugins.errors import InvalidInputError

_SPACE: Final = re.compile(r"\s+")


class Group(NamedTuple):
    """A question with passages.

    Attributes:
        query: The question.
        positives: Texts that answer it, at least one.
        negatives: Texts that do not.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


def read_groups(file: Path) -> list[Group]:
    """Read one JSON object a line: ``query``, ``positives``, ``negatives``.

    Runs of white space become one space; questions without a positive are left out.

    Raises:
        InvalidInputError: If the file cannot be read or a line is something else.
    """
    groups = []
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                group = Group(
                    _plain(row["query"]), _texts(row["positives"]), _texts(row["negatives"])
                )
                if group.query and group.positives:
                    groups.append(group)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{file} is no file of training groups: {error!r}"
        raise InvalidInputError(message) from error
    return groups


def _texts(values: list[str]) -> tuple[str, ...]:
    return tuple(filter(None, map(_plain, values)))


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
