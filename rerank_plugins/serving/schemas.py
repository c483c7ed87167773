"""What the documentation says of errors, for all APIs alike."""

from __future__ import annotations

from typing import Any, Final

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "The body is not JSON, or there is nothing to do."},
    401: {"description": "The bearer token is missing or wrong."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "The body or its texts are too large."},
    422: {"description": "The request cannot be served as it is; the message says why."},
    429: {"description": "Overloaded; Retry-After says when to try again."},
    431: {"description": "The headers are too large."},
    503: {"description": "The model is not loaded."},
    504: {"description": "Not done within X-Deadline-Ms."},
}
