"""The shared cross-encoder behind LangChain's own cross-encoder interface."""

from __future__ import annotations

from typing import Any

from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import ConfigDict, Field

from rerank_plugins._fields import ModelFields
from rerank_plugins.config import Activation
from rerank_plugins.core.reranker import Reranker


class CrossEncoderModel(ModelFields, BaseCrossEncoder):
    """Scores text pairs wherever LangChain takes a ``BaseCrossEncoder``.

    It drops into langchain-classic's ``CrossEncoderReranker``; prefer
    :class:`~rerank_plugins.langchain.CrossEncoderCompressor` where you can, which keeps the
    scores. Scores are relevance scores from 0 to 1, as other LangChain cross-encoders give
    them; ``activation="none"`` gives the model's raw scores.

    Example:
        >>> from rerank_plugins.langchain import CrossEncoderModel
        >>> scores = CrossEncoderModel().score(
        ...     [("Who wrote Faust?", "Goethe wrote it."), ("Who wrote Faust?", "It rains.")]
        ... )
        >>> scores[0] > scores[1]
        True
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    max_length: int | None = Field(
        default=512, description="Most tokens a pair may have; the document is cut to fit."
    )
    activation: Activation = Field(
        default="sigmoid", description="sigmoid for scores from 0 to 1, none for raw scores."
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Check the settings now; the model is loaded at first use."""
        super().model_post_init(context)
        self.reranker()

    def reranker(self) -> Reranker:
        """Return a reranker with these settings; it shares the process's one model.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        return Reranker(**{name: getattr(self, name) for name in type(self).model_fields})

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score text pairs.

        Args:
            text_pairs: ``(query, document)`` for each.

        Returns:
            One relevance score a pair, in order, as Python floats.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        if not text_pairs:
            return []
        rankings = self.reranker().rank_many((query, [text]) for query, text in text_pairs)
        return [ranking[0].relevance_score for ranking in rankings]
