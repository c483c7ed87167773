"""Texts in requests: what they may be, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import Header
from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.failures import Refusal
from rerank_plugins.serving.settings import ServerSettings

_HOUR_MS: Final = 3_600_000


def _check_text(value: Any) -> str:  # noqa: ANN401  (unchecked yet)
    if not isinstance(value, str):
        message = f"must be a string, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004  (pydantic reads ValueError)
    return value


def check_texts(value: Any) -> list[str]:  # noqa: ANN401  (unchecked yet)
    """Return a list of strings as it is.

    Raises:
        ValueError: If it is anything else, with the position of what is wrong.
    """
    if not isinstance(value, list):
        message = f"must be a list of strings, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004
    for position, text in enumerate(value):
        if not isinstance(text, str):
            message = f"element {position} must be a string, not {type(text).__name__}"
            raise ValueError(message)  # noqa: TRY004
    return value


# Plain checks, because pydantic's own refuse lone surrogates, which the core can read.
Text = Annotated[str, PlainValidator(_check_text), WithJsonSchema({"type": "string"})]
Texts = Annotated[
    list[str],
    PlainValidator(check_texts),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]

DeadlineMs = Annotated[
    float | None,
    Header(
        alias="X-Deadline-Ms",
        gt=0,
        le=_HOUR_MS,
        description="Milliseconds from the request's arrival to its answer. What is scored by then "
        "is answered, with X-Ranking-Status: partial if that is not all; 504 if it is nothing.",
    ),
]


class Body(BaseModel):
    """A request; a field that is not in the schema is refused, never silently dropped."""

    model_config = ConfigDict(extra="forbid", strict=True)


def check_size(settings: ServerSettings, query: str, texts: Sequence[str]) -> None:
    """Refuse a request that is larger than the server takes on.

    Raises:
        InvalidInputError: If it has too many texts.
        Refusal: If it has too many characters.
    """
    if len(texts) > settings.max_documents:
        message = (
            f"the request has {len(texts)} texts; this server takes up to "
            f"{settings.max_documents}. Send them in several requests."
        )
        raise InvalidInputError(message)
    characters = len(query) + sum(map(len, texts))
    if characters > settings.max_characters:
        message = (
            f"the request has {characters} characters; this server takes up to "
            f"{settings.max_characters}. Send shorter or fewer texts."
        )
        raise Refusal(413, message)
