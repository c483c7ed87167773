"""LangChain cross-encoder: the shared model behind LangChain's own ``BaseCrossEncoder``."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import ConfigDict

from rerank_plugins._fields import ModelFields
from rerank_plugins.config import ActivationSettings, ScoringSettings
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.engine.backend import CrossEncoderBackend, TokenizedItem
from rerank_plugins.errors import ConfigurationError, EngineClosedError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale, TextPair


class CrossEncoderModel(ActivationSettings, ScoringSettings, ModelFields, BaseCrossEncoder):
    """Scores text pairs wherever LangChain takes a ``BaseCrossEncoder``.

    It works in langchain-classic's ``CrossEncoderReranker``; prefer
    :class:`~rerank_plugins.langchain.CrossEncoderCompressor` where possible, which keeps the
    scores. Scores are relevance scores from 0 to 1, like those of other LangChain cross-encoders;
    ``activation="none"`` gives the model's raw scores.

    Example:
        >>> from rerank_plugins.langchain import CrossEncoderModel
        >>> scores = CrossEncoderModel().score(
        ...     [("Who wrote Faust?", "Goethe wrote it."), ("Who wrote Faust?", "It rains.")]
        ... )
        >>> scores[0] > scores[1]
        True
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Validate the settings now; the model is loaded at first use."""
        super().model_post_init(context)
        self.reranker()

    def reranker(self) -> Reranker:
        """Return the reranker with these settings; it shares the process's engine.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        reranker: Reranker = self._keep(Reranker)
        return reranker

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score text pairs; see :meth:`rerank_plugins.Reranker.score`.

        Args:
            text_pairs: ``(query, document)`` per pair.

        Returns:
            One relevance score per pair, in order, as Python floats.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        scores: list[float] = self.reranker().score(text_pairs).tolist()
        return scores


_BATCH_TOKENS: Final = 32_768
_CHARACTERS_PER_TOKEN: Final = 4
_MAX_LENGTH: Final = 1_000_000_000
"""Unknown: only the model truncates."""

_NUMBERS = count()
_WRAPPED: dict[int, ForeignCrossEncoder] = {}
"""By id, because models are often pydantic objects, which cannot be hashed."""


def as_backend(model: Any) -> Any:  # noqa: ANN401  (whatever a field named model may hold)
    """Return a backend for an object with LangChain's ``score``; anything else unchanged.

    The same object gets the same backend while it lives, so that all its users share one engine.
    """
    if isinstance(model, CrossEncoderBackend) or not callable(getattr(model, "score", None)):
        return model
    backend = _WRAPPED.get(id(model))
    if backend is None:
        backend = _WRAPPED.setdefault(id(model), ForeignCrossEncoder(model))
        weakref.finalize(model, _WRAPPED.pop, id(model), None)
    return backend


class ForeignCrossEncoder:
    """A foreign model with a method ``score(list of pairs) -> numbers``.

    Its scores are used unchanged; no activation applies. It reports no truncated texts, because
    only the model knows them. It refers to the model weakly: the user of the backend keeps the
    model alive.
    """

    scale = ScoreScale.UNDECLARED
    batch_tokens = _BATCH_TOKENS
    is_padded = False

    def __init__(self, model: Any) -> None:  # noqa: ANN401  (duck-typed)
        """Wrap the model; :func:`as_backend` keeps one wrapper per model.

        Raises:
            ConfigurationError: If the object cannot be referred to weakly.
        """
        name = f"{type(model).__name__} object {next(_NUMBERS)}"
        self.identity = ModelIdentity(name, None, "langchain", "unknown", _MAX_LENGTH)
        try:
            self._model = weakref.ref(model)
        except TypeError as error:
            message = f"{name} cannot be used as a model: {error}. Add __weakref__ to its slots."
            raise ConfigurationError(message) from error

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Estimate tokens from the number of characters; nothing is truncated here."""
        return [
            TokenizedItem(
                tokens=min((len(query) + len(document)) // _CHARACTERS_PER_TOKEN + 3, _MAX_LENGTH),
                truncated=False,
                payload=(query, document),
            )
            for query, document in items
        ]

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; shape ``(len(batch),)``."""
        model = self._model()
        if model is None:
            message = f"the model {self.identity.model!r} is no longer in use."
            raise EngineClosedError(message)
        scores = model.score([item.payload for item in batch])
        return np.array(list(scores), dtype=np.float32)

    def close(self) -> None:
        """Do nothing: the model belongs to its user."""
