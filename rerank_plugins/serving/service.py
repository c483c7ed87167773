"""From a checked HTTP request to the core and back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import fields
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import Header, Request
from pydantic import BaseModel, ConfigDict, PlainValidator, WithJsonSchema

from rerank_plugins import BiEncoder, Ranking, Reranker
from rerank_plugins._fields import RerankerFields
from rerank_plugins.config import Priority
from rerank_plugins.engine.backend import Role, RoleText
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import InvalidInputError, ModelLoadError, RerankError
from rerank_plugins.serving.errors import Refusal
from rerank_plugins.serving.logging import Record, record_of
from rerank_plugins.serving.settings import ServerSettings

_LONGEST_WAIT: Final = 60


_OF_A_MODEL: Final = (
    "device",
    "dtype",
    "cache_folder",
    "local_files_only",
    "trust_remote_code",
    "idle_unload_s",
    "cache_mb",
    "cache_entries",
    "cache_dir",
    "cache_dir_mb",
)
"""Settings that hold for both models."""


class Models:
    """A reranker at two priorities, and a bi-encoder if there is one.

    Attributes:
        reranker: For requests that somebody waits for.
        bulk: The same model, behind the former.
        encoder: The bi-encoder, or None.
        loaded: Whether every model is in memory.
        error: Why loading failed, if it did.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Check the settings; :meth:`load` loads."""
        given = {one.name: getattr(settings, one.name) for one in fields(settings)}
        own = {name: value for name, value in given.items() if name in RerankerFields.model_fields}
        self.reranker, self.bulk = (
            Reranker(**own, priority=priority, overload="raise")
            for priority in ("interactive", "bulk")
        )
        embedding = settings.embedding_model
        shared: dict[str, Any] = {name: given[name] for name in _OF_A_MODEL}
        self.encoder = None if embedding is None else BiEncoder(embedding, **shared)
        self.loaded = False
        self.error: RerankError | None = None
        self._max_queue_tokens = settings.max_queue_tokens

    async def load(self) -> None:
        """Load the models without blocking the event loop; a failure is kept in ``error``."""
        try:
            await asyncio.to_thread(self._load)
        except RerankError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  (else the server would load forever)
            self.error = ModelLoadError(f"{type(error).__name__}: {error}")
            self.error.__cause__ = error
        else:
            self.loaded = True

    def check_loaded(self) -> None:
        """Refuse a request as long as the models are not there.

        Raises:
            Refusal: If they are being loaded, or could not be.
        """
        if self.error is not None:
            raise Refusal(503, f"the model could not be loaded: {self.error}")
        if not self.loaded:
            raise Refusal(503, "the model is being loaded; try again.", {"Retry-After": "1"})

    def engines(self) -> dict[str, Engine[Any]]:
        """Return the engines by what they serve; none before they are loaded."""
        if not self.loaded:
            return {}
        engines: dict[str, Engine[Any]] = {"cross-encoder": self.reranker.engine}
        if self.encoder is not None:
            engines["bi-encoder"] = self.encoder.engine
        return engines

    def seconds_of_work(self) -> int:
        """Return how long the fullest queue will take at the speed so far, 1 to 60 seconds."""
        waits = [1.0]
        for engine in self.engines().values():
            stats = engine.stats()
            if stats.tokens:
                waits.append(stats.queued_tokens * stats.compute_s / stats.tokens)
        return min(math.ceil(max(waits)), _LONGEST_WAIT)

    async def embed(self, texts: list[str], role: Role) -> RequestOutput:
        """Return the embeddings of texts, with the tokens they took.

        Raises:
            Refusal: If there is no bi-encoder.
            EngineOverloadedError: If the queue is full.
            InferenceError: If the model fails.
        """
        if self.encoder is None:
            raise Refusal(404, "this server has no embedding model; start it with one.")
        items = [RoleText(text, role, None) for text in texts]
        engine = self.encoder.engine
        return await engine.acompute(items, max_length=self.encoder.max_length, wait=False)

    def _load(self) -> None:
        for model in (self.reranker, self.encoder):
            if model is not None:
                model.warm_up().engine.max_queue_tokens = self._max_queue_tokens


_HOUR_MS: Final = 3_600_000


def _validate_text(value: Any) -> str:  # noqa: ANN401  (unchecked yet)
    if not isinstance(value, str):
        message = f"must be a string, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004  (pydantic reads ValueError)
    return value


def validate_texts(value: Any) -> list[str]:  # noqa: ANN401  (unchecked yet)
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
Text = Annotated[str, PlainValidator(_validate_text), WithJsonSchema({"type": "string"})]
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
        description="Milliseconds from the request's arrival to its answer. What is scored by then "
        "is answered, with X-Ranking-Status: partial if that is not all; 504 if it is nothing.",
    ),
]


class Body(BaseModel):
    """A request; a field that is not in the schema is refused, never silently dropped."""

    model_config = ConfigDict(extra="forbid", strict=True)


def validate_size(settings: ServerSettings, query: str, texts: Sequence[str]) -> None:
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


T = TypeVar("T")

STATUS_HEADER: Final = "X-Ranking-Status"
"""``complete``, or ``partial`` if the deadline left documents out of the answer."""


async def rank(
    request: Request,
    query: str,
    documents: list[str],
    *,
    top_n: int | None = None,
    deadline_ms: float | None = None,
    priority: Priority = "interactive",
) -> Ranking:
    """Rank the documents of a request.

    Returns:
        The ranking; documents that the deadline left unscored stand at its end.

    Raises:
        Refusal: If it is too large or too late, or the model is not there.
        RerankError: As :meth:`Reranker.rank` does.
    """
    models: Models = request.app.state.models
    models.check_loaded()
    validate_size(request.app.state.settings, query, documents)
    record = record_of(request.scope)
    record.documents = len(documents)
    reranker = models.bulk if priority == "bulk" else models.reranker
    if deadline_ms is None:
        deadline_ms = request.app.state.settings.deadline_ms
    ranking = await rank_in_time(
        reranker, query, documents, top_n=top_n, deadline_ms=deadline_ms, record=record
    )
    stats = ranking.stats
    record.pairs, record.tokens = stats.pairs, stats.tokens
    record.queue_s, record.compute_s = stats.queue_s, stats.compute_s
    return ranking


async def embed(
    request: Request,
    texts: list[str],
    role: Literal["query", "document"],
    *,
    deadline_ms: float | None,
) -> RequestOutput:
    """Embed the texts of a request; see :func:`rank`."""
    models: Models = request.app.state.models
    models.check_loaded()
    validate_size(request.app.state.settings, "", texts)
    record = record_of(request.scope)
    record.documents = record.pairs = len(texts)
    computed = await _in_time(models.embed(texts, role), deadline_ms, record)
    record.tokens = int(computed.tokens.sum())
    record.queue_s, record.compute_s = computed.queue_s, computed.compute_s
    return computed


async def rank_in_time(
    reranker: Reranker,
    query: str,
    documents: list[str],
    *,
    top_n: int | None,
    deadline_ms: float | None,
    record: Record,
) -> Ranking:
    """Rank by the deadline, counted from the request's arrival, as far as that goes.

    Raises:
        Refusal: If not a single document was scored in time.
    """
    left = None if deadline_ms is None else deadline_ms - record.seconds * 1000
    if left is not None and left < 1:  # the least that a reranker takes
        raise _too_late(deadline_ms)
    ranking = await reranker.arank(query, documents, top_n=top_n, deadline_ms=left)
    if documents and not ranking.stats.scored:
        raise _too_late(deadline_ms)
    return ranking


async def _in_time(work: Coroutine[Any, Any, T], deadline_ms: float | None, record: Record) -> T:
    left = None if deadline_ms is None else max(deadline_ms / 1000 - record.seconds, 0.0)
    try:
        return await asyncio.wait_for(work, left)
    except asyncio.TimeoutError as error:  # not the builtin before Python 3.11
        raise _too_late(deadline_ms) from error


def _too_late(deadline_ms: float | None) -> Refusal:
    message = f"not done within {deadline_ms} ms, the deadline; it was cancelled."
    return Refusal(504, message)
