"""What describes a decoder reranker beyond its name."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rerank_plugins.core.checks import check_choice
from rerank_plugins.errors import ConfigurationError

DecoderFamily = Literal["auto", "qwen3", "mxbai", "gemma"]


@dataclass(frozen=True)
class DecoderModel:
    """A decoder reranker with settings of its own; give it as ``model=`` wherever a name goes.

    A name alone is enough for the models of the table of supported ones, and for every model
    that sentence-transformers describes (``modules.json`` and a chat template with the roles
    ``query`` and ``document``).

    Attributes:
        model: Hub name or folder.
        instruction: What makes a document relevant, in the model's prompt; None is the model's
            own. The prompt of ``gemma`` has no place for one.
        family: Whose prompt and answers are used; ``"auto"`` reads the model's files and name. Say
            it for a model that was trained from one of the family and is called otherwise.
        prefix_reuse: Whether what the pairs of a query begin with is computed once.

    Example:
        >>> from rerank_plugins import DecoderModel, Reranker
        >>> model = DecoderModel("./tuned", family="qwen3", instruction="Find the clause.")
        >>> Reranker(model, top_n=5).config.top_n
        5
    """

    model: str
    _: KW_ONLY
    instruction: str | None = None
    family: DecoderFamily = "auto"
    prefix_reuse: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        object.__setattr__(self, "model", checked_model(self.model))
        check_choice("family", self.family, get_args(DecoderFamily))
        check_text("instruction", self.instruction, "the model's own")

    @property
    def backend_name(self) -> str:
        """The name under which :mod:`rerank_plugins.backends` knows it."""
        return "decoder"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return what the model is called in rankings and errors."""
        return self.model


def checked_model(model: object) -> str:
    """Return a model's name as text.

    Raises:
        ConfigurationError: If it is none.
    """
    if isinstance(model, Path):
        return str(model)
    if not isinstance(model, str) or not model.strip():
        message = f"model is {model!r}; give a Hub name or a folder."
        raise ConfigurationError(message)
    return model


def check_text(name: str, value: object, none: str) -> None:
    """Check a setting that is a text or None.

    Raises:
        ConfigurationError: If it is something else.
    """
    if value is not None and not isinstance(value, str):
        message = f"{name} is {value!r}; it must be a text, or None for {none}."
        raise ConfigurationError(message)
