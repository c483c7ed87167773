"""LangChain cross-encoder: the shared model behind LangChain's own ``BaseCrossEncoder``."""

from __future__ import annotations

from typing import Any

from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import ConfigDict

from rerank_plugins._fields import ModelFields
from rerank_plugins.config import ActivationSettings, ScoringSettings
from rerank_plugins.core.reranker import Reranker


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
