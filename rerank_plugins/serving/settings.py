"""Server settings and the bearer token.

The settings hold no secret, so they can be pickled and logged. The token is never among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from rerank_plugins.config import (
    MINI,
    Activation,
    Dtype,
    Fusion,
    LongDocuments,
    ModelSpec,
    Optimize,
)
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.engine.backend import BiEncoderBackend, CrossEncoderBackend
from rerank_plugins.engine.engine import MAX_QUEUE_TOKENS
from rerank_plugins.errors import ConfigurationError

TOKEN_VARIABLE: Final = "RERANK_PLUGINS_TOKEN"  # noqa: S105  (the variable's name)
"""Environment variable of the bearer token."""

Limit = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of the settings: immutable; an invalid value raises ConfigurationError."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True
    )

    def __init__(self, /, **values: Any) -> None:  # noqa: ANN401  (checked by pydantic)
        """Validate types and limits; the models validate the rest.

        Raises:
            ConfigurationError: If a value is invalid.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_message(error)) from error

    def values(self) -> dict[str, Any]:
        """Return the fields by name, without converting their values."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class ServerSettings(Settings):
    """Models, ranking options and request limits of a server.

    The fields from ``score_threshold`` to ``deadline_ms`` mean the same as in
    :class:`~rerank_plugins.Reranker`.

    Attributes:
        model: Cross-encoder: ``"mini"``, a Hub name, a folder, a model spec or a backend object.
        embedding_model: Bi-encoder of ``/v1/embeddings``; None disables that endpoint.
        backend: Backend of the cross-encoder; ``"auto"`` selects it by the model.
        device: Torch device of both models; None selects the best one available.
        dtype: Data type of both models.
        optimize: ``"compile"`` or ``"reduce-overhead"`` compiles the cross-encoder.
        max_length: Maximum tokens of a query with a document; longer documents are truncated.
        revision: Branch, tag or commit of the cross-encoder on the Hub.
        cache_folder: Folder of downloaded models.
        local_files_only: Whether to use only files that are already on this machine.
        trust_remote_code: Whether to run Python code from the model's repository.
        idle_unload_s: Idle seconds before the models are unloaded; None keeps them loaded.
        cache_mb: Megabytes of memory for cached results; 0 disables the cache.
        cache_entries: Maximum number of results cached in memory; None sets no limit.
        cache_dir: Folder of the disk cache; None disables it.
        cache_dir_mb: Maximum megabytes of the disk cache.
        score_threshold: Documents with a lower relevance score are not returned.
        activation: ``"sigmoid"`` or ``"none"``.
        calibrator: Calibrator, or the path of its JSON file.
        fusion: ``"rrf"`` or ``"weighted"`` combines model scores with the order of the request.
        fusion_weight: Weight of the model in the fusion.
        drop_similar: Cosine similarity from which a document is a near-duplicate of a better one.
        similarity_model: Bi-encoder that detects near-duplicates.
        long_documents: ``"truncate"`` or ``"windows"``.
        window_overlap: Tokens that two consecutive windows share.
        max_windows: Maximum windows per document.
        best_windows: Number of highest-scoring windows averaged into the document score.
        query_prompt: Text before every query; None uses the model's own prompt.
        document_prompt: Text before every document; None uses the model's own prompt.
        deadline_ms: Default of the request header ``X-Deadline-Ms``.
        max_documents: Maximum documents, or texts to embed, per request.
        max_characters: Maximum characters per request, query and documents together.
        max_body_bytes: Maximum bytes of a request body.
        max_queue_tokens: Maximum tokens in the queue; requests beyond it get 429.
        body_timeout_s: Timeout for the request headers, for the request body, and for the client
            to read more of a response.
    """

    model: str | Path | ModelSpec | CrossEncoderBackend = MINI
    embedding_model: str | Path | BiEncoderBackend | None = MINI
    backend: str = "auto"
    device: str | Sequence[str] | None = None
    dtype: Dtype = "auto"
    optimize: Optimize = "none"
    max_length: int | None = 512
    revision: str | None = None
    cache_folder: str | Path | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    idle_unload_s: float | None = None
    cache_mb: float = 0
    cache_entries: int | None = None
    cache_dir: str | Path | None = None
    cache_dir_mb: float = 1024
    score_threshold: float | None = None
    activation: Activation = "sigmoid"
    calibrator: Calibrator | str | Path | None = None
    fusion: Fusion = "none"
    fusion_weight: float = 0.5
    drop_similar: float | None = None
    similarity_model: str | Path | BiEncoder = MINI
    long_documents: LongDocuments = "truncate"
    window_overlap: int = 64
    max_windows: int | None = 32
    best_windows: int = 1
    query_prompt: str | None = None
    document_prompt: str | None = None
    deadline_ms: float | None = None
    max_documents: Limit = 1_000
    max_characters: Limit = 2_000_000
    max_body_bytes: Limit = 8 * 2**20
    max_queue_tokens: Limit = MAX_QUEUE_TOKENS
    body_timeout_s: Seconds = 10.0

    @field_serializer("model", "embedding_model", "calibrator", "similarity_model")
    def _serialize_object(self, value: object) -> str | None:
        """Return the name of a model or calibrator; a model spec may hold a token."""
        return None if value is None else str(value)


def _message(error: ValidationError) -> str:
    """Return one sentence per invalid field, with its value and what is allowed."""
    sentences: dict[object, str] = {}
    for detail in error.errors():
        field = detail["loc"][0] if detail["loc"] else None
        rule = detail["msg"].removeprefix("Value error, ").replace("Input should", "it must")
        if detail["type"] == "extra_forbidden":
            sentence = f"{field} is not a setting."
        elif field is None:  # the fields are valid, their combination is not
            sentence = f"{rule}."
        else:
            sentence = f"{field} is {detail['input']!r}; {rule}."
        sentences.setdefault(field, sentence)  # a union reports an error for each of its types
    return " ".join(sentences.values())


def validate_token(token: str | None) -> str | None:
    """Return the bearer token if an HTTP header can carry it.

    Raises:
        ConfigurationError: If it is empty or contains anything but visible ASCII characters. The
            message does not show the token.
    """
    if token is None or (token and all("!" <= character <= "~" for character in token)):
        return token
    message = (
        "the bearer token is empty or contains a space, a line end or a character outside ASCII. "
        f"Use visible ASCII characters, or unset {TOKEN_VARIABLE} to serve without a token."
    )
    raise ConfigurationError(message)
