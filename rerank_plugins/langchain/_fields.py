"""The settings that the compressor and the retriever share."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from rerank_plugins._fields import RerankerFields
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.langchain._foreign import as_backend


class LangChainRerankerFields(RerankerFields):
    """A reranker's settings, where ``model`` may also be a LangChain ``BaseCrossEncoder``."""

    # Strict: in pydantic's lax mode top_n=True would silently mean 1.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", strict=True)

    metadata_keys: list[str] = Field(
        default=[], description="Metadata that the model reads before the text, a line each."
    )
    first_stage_key: str = Field(
        default="score", description="Metadata key of the first stage's score, for a fusion."
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Check the settings now; the model is loaded at first use."""
        super().model_post_init(context)
        self.reranker()

    def settings(self) -> dict[str, Any]:
        """Return what a reranker is made from, by field name."""
        return {name: getattr(self, name) for name in LangChainRerankerFields.model_fields}

    def reranker(self) -> Reranker:
        """Return a reranker with these settings; it shares the process's one model.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        settings = {name: getattr(self, name) for name in RerankerFields.model_fields}
        return Reranker(**settings | {"model": as_backend(self.model)})
