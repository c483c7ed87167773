"""The models of a server: loaded once, shared by all requests."""

from __future__ import annotations

import asyncio
import math
from dataclasses import fields
from typing import Any, Final

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins._fields import RerankerFields
from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.engine import Engine
from rerank_plugins.core.protocols import Role, RoleText
from rerank_plugins.errors import ModelLoadError, RerankError
from rerank_plugins.serving.failures import Refusal
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

    async def embed(self, texts: list[str], role: Role) -> Computed:
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
