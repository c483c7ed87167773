"""Log lines as JSON, without texts: numbers, names of ours, and request ids."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from typing import Any


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
