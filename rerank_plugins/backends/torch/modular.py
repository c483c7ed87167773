"""Modular rerankers of sentence-transformers: an encoder, a pooling and a head of modules."""

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

_MODULES_BEFORE_HEAD: Final = 2
"""The encoder and the pooling."""


class ModularModel(torch.nn.Module):
    """A modular reranker with the interface of a transformers model.

    Attributes:
        encoder: The transformers encoder without a head.
        head: The modules from a pooled vector to scores.
    """

    base_model_prefix = "encoder"

    def __init__(self, modules: CrossEncoder) -> None:
        """Use the modules of a loaded model.

        Args:
            modules: A Transformer, a Pooling, and the modules of the head.
        """
        super().__init__()
        self.encoder: Any = modules[0].auto_model
        self.head = ModularHead(list(modules)[_MODULES_BEFORE_HEAD:])
        # In a tuple, so that it is not a submodule whose data type is changed: it has no weights.
        self._pooling = (modules[1],)

    @property
    def config(self) -> Any:  # noqa: ANN401  (one of many configuration classes)
        """The configuration of the encoder."""
        return self.encoder.config

    @property
    def uses_cls_pooling(self) -> bool:
        """Whether the pooled vector is the state of the first token."""
        return bool(self._pooling[0].pooling_mode == "cls")

    def set_attn_implementation(self, name: str) -> None:
        """Set the attention implementation of the encoder."""
        self.encoder.set_attn_implementation(name)

    def forward(self, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> SimpleNamespace:
        """Score a padded batch; the result has ``logits`` of shape ``(rows, labels)``."""
        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        pooled = self._pooling[0]({"token_embeddings": states, "attention_mask": attention_mask})
        return SimpleNamespace(logits=self.head(pooled["sentence_embedding"]))


class ModularHead(torch.nn.Module):
    """The modules from a pooled vector to scores."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        """Use modules in their order."""
        super().__init__()
        self.modules_in_order = torch.nn.ModuleList(modules)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return raw scores of shape ``(rows, labels)``."""
        features = {"sentence_embedding": vectors}
        for module in self.modules_in_order:
            features = module(features)
        return features["scores"]


def load_modular(config: ModelConfig, source: str, options: dict[str, Any]) -> ModularModel:
    """Load a modular reranker on the CPU.

    Args:
        config: Resolved configuration of the model.
        source: Folder or Hub name.
        options: See :func:`~rerank_plugins.backends.hub.hub_options`.

    Raises:
        ModelLoadError: If its modules are not an encoder, a pooling and a head.
    """
    modules = load_modules(config, source, options, device="cpu")
    if len(modules) <= _MODULES_BEFORE_HEAD or not (
        isinstance(modules[0], Transformer) and isinstance(modules[1], Pooling)
    ):
        names = ", ".join(type(module).__name__ for module in modules)
        message = (
            f"{config.model!r} consists of {names}; the torch backend supports a Transformer, a "
            'Pooling and a head. Use backend="sbert".'
        )
        raise ModelLoadError(message)
    return ModularModel(modules)


def load_modules(
    config: ModelConfig, source: str, options: dict[str, Any], *, device: str
) -> CrossEncoder:
    """Load a reranker with sentence-transformers.

    Raises:
        ModelLoadError: If it has neither one label nor two.
    """
    validate_modules(source, options)
    model: CrossEncoder = CrossEncoder(
        source,
        device=device,
        cache_folder=options["cache_dir"],
        model_kwargs={"dtype": getattr(torch, config.dtype), "use_safetensors": True},
        **{name: value for name, value in options.items() if name != "cache_dir"},
    )
    if model.num_labels not in (1, 2):
        message = (
            f"{config.model!r} has {model.num_labels} labels: it is a classifier. A reranker has "
            "one label, or two labels of which the second is 'relevant'."
        )
        raise ModelLoadError(message)
    model.eval()
    return model
