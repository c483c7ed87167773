"""How a batch ranks; whatever is in here changes its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rerank_plugins import Reranker
from rerank_plugins.core.config import MINI, Dtype
from rerank_plugins.core.policy import Activation
from rerank_plugins.errors import ConfigurationError


@dataclass(frozen=True)
class BatchSettings:
    """Settings of a batch; see :class:`Reranker` for what they mean.

    Attributes:
        max_documents: Most documents of a unit of work; a longer list is split, its parts
            scored wherever there is room, and merged again.
    """

    model: str = MINI
    backend: str = "auto"
    device: str | None = None
    dtype: Dtype = "auto"
    max_length: int | None = 512
    revision: str | None = None
    cache_folder: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    top_n: int | None = None
    score_threshold: float | None = None
    activation: Activation = "sigmoid"
    max_documents: int = 2_000

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: If one is out of range.
        """
        if isinstance(self.max_documents, bool) or not isinstance(self.max_documents, int):
            message = f"max_documents is {self.max_documents!r}; it must be an integer."
            raise ConfigurationError(message)
        if self.max_documents < 1:
            message = f"max_documents is {self.max_documents}; it must be at least 1."
            raise ConfigurationError(message)
        self.reranker()

    def reranker(self) -> Reranker:
        """Return a reranker with these settings; its model is loaded when it is used."""
        settings = asdict(self)
        del settings["max_documents"]
        return Reranker(settings.pop("model"), **settings)
