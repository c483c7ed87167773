"""JSON log lines that contain no text of a caller."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from typing import Any


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
