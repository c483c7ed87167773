"""Counts and times of one HTTP request, for its log line and the metrics.

A record contains no text of the caller. It is stored in the ASGI scope of its request.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Scope

_VALID_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,128}")


@dataclass
class RequestRecord:
    """Counts and times of one request.

    Attributes:
        request_id: ``X-Request-ID`` of the request if it is valid, otherwise a generated one.
        started: Arrival, on the clock of :func:`time.perf_counter`.
        status: HTTP status of the response; 0 until it starts.
        documents: Documents, or texts to embed, in the request.
        pairs: Pairs or texts computed for the request.
        tokens: Tokens computed.
        queue_s: Seconds from the submission to the first batch.
        compute_s: Seconds in the model.
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
