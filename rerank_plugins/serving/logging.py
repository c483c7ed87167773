"""JSON log lines that contain no text of a caller."""

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

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,128}")


@dataclass
class RequestRecord:
    """Counts and times of one request."""

    request_id: str
    started: float = field(default_factory=perf_counter)
    status: int = 0  # until the response starts
    documents: int = 0  # or texts to embed
    pairs: int = 0  # or texts; computed, as are the tokens
    tokens: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the arrival."""
        return perf_counter() - self.started


def start_record(scope: Scope) -> RequestRecord:
    """Create the record of a request and store it in the scope."""
    request_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    record = RequestRecord(request_id if _VALID_ID.fullmatch(request_id) else uuid.uuid4().hex)
    scope.setdefault("state", {})["record"] = record
    return record


def get_record(scope: Scope) -> RequestRecord:
    """Return the record that :func:`start_record` stored."""
    record: RequestRecord = scope["state"]["record"]
    return record


def log_to_stderr(level: str) -> None:
    """Configure the logging of this process: JSON lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    # Other libraries may log texts of callers: only their warnings are shown.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("rerank_plugins", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, including the fields of ``extra={"fields": {...}}``."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["fault"] = describe_fault(record.exc_info[1])
        return json.dumps(line)


def describe_fault(error: BaseException) -> dict[str, Any]:
    """Return the type and the stack of an error.

    The message is left out, because it may repeat texts of the caller.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": type(error).__qualname__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
