"""Request fields that the APIs share.

Texts have their own validators: those of pydantic reject lone surrogates, which the tokenizers
accept.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Header
from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema

STATUS_HEADER: Final = "X-Ranking-Status"
"""``complete``, or ``partial`` if the deadline passed before all documents were scored."""

_HOUR_MS: Final = 3_600_000


class RequestBody(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


def validate_text(value: Any) -> str:  # noqa: ANN401  (any JSON)
    """Return the value if it is a string.

    Raises:
        ValueError: If it has another type.
    """
    if not isinstance(value, str):
        message = f"must be a string, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004  (pydantic expects ValueError)
    return value


def validate_texts(value: Any) -> list[str]:  # noqa: ANN401  (any JSON)
    """Return the value if it is a list of strings.

    Raises:
        ValueError: If it has another type; the message contains the invalid position.
    """
    if not isinstance(value, list):
        message = f"must be a list of strings, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004
    for position, text in enumerate(value):
        if not isinstance(text, str):
            message = f"element {position} must be a string, not {type(text).__name__}"
            raise ValueError(message)  # noqa: TRY004
    return value


Text = Annotated[str, PlainValidator(validate_text), WithJsonSchema({"type": "string"})]
Texts = Annotated[
    list[str],
    PlainValidator(validate_texts),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
DeadlineMs = Annotated[
    float | None,
    Header(
        alias="X-Deadline-Ms",
        gt=0,
        le=_HOUR_MS,
        description="Milliseconds from the arrival of the request to the response. Documents "
        "scored by then are returned, with X-Ranking-Status: partial if some are missing; the "
        "status is 504 if none was scored.",
    ),
]
