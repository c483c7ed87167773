"""Log lines as JSON, without texts: numbers, names of ours, and request ids."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.types import Scope


def fault(error: BaseException) -> dict[str, Any]:
    """Return what an error is and where it came from, without its message.

    A message may repeat what the caller sent; the type and the places cannot.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": type(error).__qualname__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; ``extra={"fields": {...}}`` adds fields."""
        at = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["fault"] = fault(record.exc_info[1])
        return json.dumps(line)


def log_to_stderr(level: str) -> None:
    """Send the log of this process to standard error as JSON; a server process calls this."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    # Other libraries' chatter stays out: nobody knows what they put into it.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for ours in ("rerank_plugins", "uvicorn"):
        logging.getLogger(ours).setLevel(level.upper())


_SANE_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,128}")
CLIENT_GONE: Final = 499
"""Logged as the status of a request whose client went away; nginx's number for it."""


@dataclass
class Record:
    """Counts and times of one request, for its log line and the metrics; never a text.

    Attributes:
        request_id: The caller's ``X-Request-ID`` if it is a sane one, else ours.
        started: When it arrived, on the clock of :func:`time.perf_counter`.
        status: Of the answer; 0 until it begins.
        documents: Documents (or texts to embed) it brought.
        pairs: Of those, computed for this request.
        tokens: Tokens computed.
        queue_s: Seconds it waited for its first batch.
        compute_s: Seconds of computing.
    """

    request_id: str
    started: float = field(default_factory=perf_counter)
    status: int = 0
    documents: int = 0
    pairs: int = 0
    tokens: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since it arrived."""
        return perf_counter() - self.started


def new_record(scope: Scope) -> Record:
    """Make the record of a request and leave it in the scope, for :func:`record_of`."""
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    record = Record(given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex)
    scope.setdefault("state", {})["record"] = record
    return record


def record_of(scope: Scope) -> Record:
    """Return the record of the request with this scope."""
    record: Record = scope["state"]["record"]
    return record
