"""What a server serves, and how much it takes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rerank_plugins.config import MINI, Activation, Dtype, Fusion, LongDocuments, Optimize
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.engine.backend import BiEncoderBackend, CrossEncoderBackend
from rerank_plugins.engine.engine import MAX_QUEUE_TOKENS
from rerank_plugins.errors import ConfigurationError

TOKEN_VARIABLE: Final = "RERANK_PLUGINS_TOKEN"  # noqa: S105  (the variable's name)
"""The environment variable that holds the bearer token."""

_COUNTS: Final = ("max_documents", "max_characters", "max_body_bytes", "max_queue_tokens")


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server; plain values without a secret, so they can be pickled and logged.

    Attributes:
        model: The cross-encoder: ``"mini"``, a Hub name, a folder or a backend object.
        embedding_model: The bi-encoder of ``/v1/embeddings``; None serves none.
        backend: What computes the cross-encoder; ``"auto"`` chooses by the model.
        device: A torch device for both models; None chooses.
        dtype: Data type of the arithmetic of both models.
        optimize: ``"compile"`` or ``"reduce-overhead"`` (with CUDA graphs) compiles the
            cross-encoder.
        max_length: Most tokens a query with a document may have; the document is cut to fit.
        revision: Branch, tag or commit of the cross-encoder on the hub.
        cache_folder: Where downloads are kept.
        local_files_only: Whether to use only what is already on this machine.
        trust_remote_code: Whether to run Python code that comes with a model.
        idle_unload_s: Seconds without work before the models are unloaded; None keeps them.
        cache_mb: Megabytes for results computed before; 0 keeps none.
        cache_entries: Most results in those megabytes; None sets no bound.
        cache_dir: Folder for results that outlast the process; None keeps none.
        cache_dir_mb: Megabytes of that folder.
        score_threshold: As in :class:`~rerank_plugins.Reranker`, like all up to
            ``document_prompt``; what they leave out is not in the answer.
        activation: ``"sigmoid"`` or ``"none"``.
        calibrator: Its JSON file, or the object.
        fusion: The first stage has a say by the order in which documents are sent.
        fusion_weight: The model's share in it.
        drop_similar: Cosine from which a document repeats a better one.
        similarity_model: The bi-encoder that tells.
        long_documents: ``"truncate"`` or ``"windows"``.
        window_overlap: Tokens that a window shares with the one before it.
        max_windows: Most windows of a document.
        best_windows: How many windows a document's score is the mean of.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        deadline_ms: Milliseconds for a ranking whose request names no ``X-Deadline-Ms``.
        max_documents: Most documents (or texts to embed) in a request.
        max_characters: Most characters in a request, query and documents together.
        max_body_bytes: Most bytes in the body of a request.
        max_queue_tokens: Tokens that may wait; a request beyond them is answered 429.
        body_timeout_s: Seconds in which the headers of a request must have arrived, then its
            body; and in which a client must read on in an answer.
    """

    model: str | Path | CrossEncoderBackend = MINI
    embedding_model: str | Path | BiEncoderBackend | None = MINI
    backend: str = "auto"
    device: str | None = None
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
    max_documents: int = 1_000
    max_characters: int = 2_000_000
    max_body_bytes: int = 8 * 2**20
    max_queue_tokens: int = MAX_QUEUE_TOKENS
    body_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Check the limits; the models check their own settings.

        Raises:
            ConfigurationError: If one is out of range.
        """
        for name in _COUNTS:
            _validate_bound(name, getattr(self, name))
        validate_seconds("body_timeout_s", self.body_timeout_s)


def _validate_bound(name: str, bound: int) -> None:
    if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
        message = f"{name} is {bound!r}; it must be an integer of at least 1."
        raise ConfigurationError(message)


def validate_seconds(name: str, seconds: float) -> float:
    """Return a duration if it is a finite number above 0.

    Raises:
        ConfigurationError: If it is anything else.
    """
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds <= 0:
        message = f"{name} is {seconds!r}; it must be a finite number of seconds above 0."
        raise ConfigurationError(message)
    return seconds


def validate_token(token: str | None) -> str | None:
    """Return the bearer token if a header can carry it; the message never shows it.

    Raises:
        ConfigurationError: If it is empty, or holds more than visible ASCII characters.
    """
    if token is None or (token and all("!" <= letter <= "~" for letter in token)):
        return token
    message = (
        "the bearer token is empty or holds a space, a line end or a letter outside ASCII. "
        f"Give visible ASCII characters, or unset {TOKEN_VARIABLE} to serve everybody."
    )
    raise ConfigurationError(message)
