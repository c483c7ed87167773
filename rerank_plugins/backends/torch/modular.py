"""An encoder under a head of sentence-transformers' modules: Pooling, Dense, LayerNorm, ..."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from rerank_plugins.backends.model_files import validate_modules
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ModelLoadError

_BEFORE_HEAD: Final = 2
"""Modules before the head: the encoder and the pooling."""


class ModularHead(torch.nn.Module):
    """Modules that make scores of a vector."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        """Keep the modules in order."""
        super().__init__()
        self.modules_in_order = torch.nn.ModuleList(modules)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return raw scores of shape ``(rows, labels)``."""
        features = {"sentence_embedding": vectors}
        for module in self.modules_in_order:
            features = module(features)
        return features["scores"]


class ModularModel(torch.nn.Module):
    """What sentence-transformers keeps as a list of modules, called like a transformers model.

    Attributes:
        encoder: The transformers encoder without a head.
        head: The modules from a pooled vector to scores.
    """

    base_model_prefix = "encoder"

    def __init__(self, modules: CrossEncoder) -> None:
        """Take a loaded model apart.

        Args:
            modules: A Transformer, a Pooling, and what makes scores of its vectors.
        """
        super().__init__()
        self.encoder: Any = modules[0].auto_model
        self.head = ModularHead(list(modules)[_BEFORE_HEAD:])
        # Without weights, and it takes no tensor: not a part whose data type matters.
        self._pooling = (modules[1],)

    @property
    def config(self) -> Any:  # noqa: ANN401  (one of many configuration classes)
        """The encoder's configuration."""
        return self.encoder.config

    @property
    def reads_first_token(self) -> bool:
        """Whether the vector is the state of the first token and of nothing else."""
        return bool(self._pooling[0].pooling_mode == "cls")

    def set_attn_implementation(self, name: str) -> None:
        """Switch how the encoder attends."""
        self.encoder.set_attn_implementation(name)

    def forward(self, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> SimpleNamespace:
        """Score a padded batch; the result has ``logits`` of shape ``(rows, labels)``."""
        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        pooled = self._pooling[0]({"token_embeddings": states, "attention_mask": attention_mask})
        return SimpleNamespace(logits=self.head(pooled["sentence_embedding"]))


def load_modular(config: ModelConfig, source: str, options: dict[str, Any]) -> ModularModel:
    """Load a modular reranker on the CPU.

    Args:
        config: The configuration that names it.
        source: Folder or Hub name.
        options: See :func:`~rerank_plugins.backends.hub.hub_options`.

    Raises:
        ModelLoadError: If its modules are not an encoder, a pooling and a head.
    """
    modules = load_modules(config, source, options, device="cpu")
    if len(modules) <= _BEFORE_HEAD or not (
        isinstance(modules[0], Transformer) and isinstance(modules[1], Pooling)
    ):
        names = ", ".join(type(module).__name__ for module in modules)
        message = (
            f"{config.model!r} consists of {names}; the torch backend runs a Transformer, a "
            'Pooling and a head. Use backend="sbert".'
        )
        raise ModelLoadError(message)
    return ModularModel(modules)


def load_modules(
    config: ModelConfig, source: str, options: dict[str, Any], *, device: str
) -> CrossEncoder:
    """Load a model with sentence-transformers.

    Raises:
        ModelLoadError: If it does not end in one score, or in two labels.
    """
    validate_modules(source, options)
    own = {name: value for name, value in options.items() if name != "cache_dir"}
    model: CrossEncoder = CrossEncoder(
        source,
        device=device,
        cache_folder=options["cache_dir"],
        model_kwargs={"dtype": getattr(torch, config.dtype), "use_safetensors": True},
        **own,
    )
    if model.num_labels not in (1, 2):
        message = (
            f"{config.model!r} has {model.num_labels} labels: it classifies. A reranker has one "
            "label, or two of which the second is 'relevant'."
        )
        raise ModelLoadError(message)
    model.eval()
    return model
