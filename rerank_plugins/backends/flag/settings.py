"""What describes one of FlagEmbedding's rerankers beyond its name."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Final, Literal, get_args

from rerank_plugins.backends.decoder.settings import check_text, checked_model
from rerank_plugins.core.checks import check_choice
from rerank_plugins.errors import ConfigurationError

FlagVariant = Literal["auto", "encoder-only", "decoder-only", "layerwise", "lightweight"]

_RATIOS: Final = (1, 2, 4, 8)


@dataclass(frozen=True)
class FlagModel:
    """One of FlagEmbedding's rerankers; give it as ``model=`` wherever a name goes.

    A name alone is enough for BAAI's own; the settings are FlagEmbedding's, under its names.

    Attributes:
        model: Hub name or folder.
        variant: ``"decoder-only"`` (bge-reranker-v2-gemma), ``"layerwise"``
            (bge-reranker-v2-minicpm-layerwise), ``"lightweight"``
            (bge-reranker-v2.5-gemma2-lightweight) or ``"encoder-only"``: FlagEmbedding's own
            ``FlagReranker`` as a reference, which needs the extra ``flag``; the torch backend runs
            the same models faster. ``"auto"`` reads the model's configuration and name.
        cutoff_layers: Layers to compute, counted from 1; None is all. Later ones are not loaded.
            Only of ``layerwise`` and ``lightweight``.
        compress_ratio: How many tokens of a document become one: 1, 2, 4 or 8. Only of
            ``lightweight``, as :attr:`compress_layers`.
        compress_layers: Layers before which that happens.
        prompt: What is asked after the texts; None is the variant's own.
        query_instruction: Put before the query.
        passage_instruction: Put before the document.

    Example:
        >>> from rerank_plugins import FlagModel, Reranker
        >>> model = FlagModel("BAAI/bge-reranker-v2-minicpm-layerwise", cutoff_layers=28)
        >>> Reranker(model, top_n=5).config.top_n
        5
    """

    model: str
    _: KW_ONLY
    variant: FlagVariant = "auto"
    cutoff_layers: int | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = (8,)
    prompt: str | None = None
    query_instruction: str = "A: "
    passage_instruction: str = "B: "

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        object.__setattr__(self, "model", checked_model(self.model))
        check_choice("variant", self.variant, get_args(FlagVariant))
        if self.compress_ratio not in _RATIOS:
            message = f"compress_ratio is {self.compress_ratio!r}; it must be 1, 2, 4 or 8."
            raise ConfigurationError(message)
        # Lists, as FlagEmbedding takes them and as JSON brings them back.
        layers = self.compress_layers
        object.__setattr__(self, "compress_layers", tuple(layers) if layers else ())
        if not all(_is_layer(layer) for layer in self.compress_layers):
            message = f"compress_layers is {layers!r}; it must hold numbers of layers from 1."
            raise ConfigurationError(message)
        if self.cutoff_layers is not None and not _is_layer(self.cutoff_layers):
            message = (
                f"cutoff_layers is {self.cutoff_layers!r}; it must be one number of layers from 1, "
                "or None for all: a ranking has one score a document."
            )
            raise ConfigurationError(message)
        check_text("prompt", self.prompt, "the variant's own")
        for name in ("query_instruction", "passage_instruction"):
            check_text(name, getattr(self, name) or "", "none")

    @property
    def backend_name(self) -> str:
        """The name under which :mod:`rerank_plugins.backends` knows it."""
        return "flag"

    def refuse(self, variant: str, *names: str) -> None:
        """Refuse settings that a variant does not have.

        Raises:
            ConfigurationError: If one of them is not its default.
        """
        plain = FlagModel(self.model)
        for name in names:
            value = getattr(self, name)
            if value != getattr(plain, name):
                message = f"{name} is {value!r}, and {self.model!r} is {variant}, which has none."
                raise ConfigurationError(message)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self) | {"compress_layers": list(self.compress_layers)}

    def __str__(self) -> str:
        """Return what the model is called in rankings and errors."""
        return self.model


def _is_layer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
