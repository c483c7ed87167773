"""Loading of encoder rerankers, and checks that a model is a reranker."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rerank_plugins.backends.config_limits import smallest_max_seq_length
from rerank_plugins.backends.fingerprint import fingerprint
from rerank_plugins.backends.hub import (
    adapter_options,
    cross_encoder_folder,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import is_modular, read_prompts, validate_source
from rerank_plugins.backends.torch.modular import load_modular
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import Role
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair

PROBES: Final = tuple(
    TextPair(query, document)
    for query, document in (("", ""), ("a", "b c"), ("who", "he " * 90), ("what is it " * 9, "x"))
)
"""Edge-case pairs on which two implementations of a model are compared when it is loaded."""

_HEAD: Final = "ForSequenceClassification"
_LABELS: Final = (1, 2)
_UNLIMITED: Final = 2**31
_SMALL: Final = 25_000_000
"""Number of weights up to which a core computes thousands of tokens in well under a second."""


class LoadedReranker(NamedTuple):
    """The parts of a reranker.

    Attributes:
        model: The model on the CPU, in evaluation mode, in the configured data type.
        tokenizer: The transformers tokenizer.
        fingerprint: Digest of the files of both.
        prompts: Prompts of the model's own configuration for queries and documents.
    """

    model: Any
    tokenizer: Any
    fingerprint: str
    prompts: dict[Role, str]


def load_reranker(config: ModelConfig) -> LoadedReranker:
    """Load the model of a resolved configuration.

    Raises:
        ModelLoadError: If there is no such model, or it is not a reranker.
    """
    source = locate(config, cross_encoder_folder)
    options = hub_options(config, source)
    with quiet_loading(config.model):
        validate_source(source, options)
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **options)
        model: torch.nn.Module
        if is_modular(source, options):
            model = load_modular(config, source, options)
        else:
            validate_head(AutoConfig.from_pretrained(source, **options), config.model)
            model = load_weights(AutoModelForSequenceClassification, source, config, options)
        if tokenizer.chat_template:
            message = (
                f"{config.model!r} has a chat template, and the torch backend joins a query and a "
                'document without one. Use backend="decoder".'
            )
            raise ModelLoadError(message)
        prompts = read_prompts(source, options)
    digest = fingerprint(source, config.revision, config.cache_folder)
    return LoadedReranker(model.eval(), tokenizer, digest, prompts)


def load_weights(
    cls: Any,  # noqa: ANN401  (one of many model classes)
    source: str,
    config: ModelConfig,
    options: dict[str, Any],
    *,
    model_config: Any = None,  # noqa: ANN401  (a model's own class)
) -> Any:  # noqa: ANN401
    """Load a transformers model on the CPU, in the configured data type.

    Args:
        cls: The model class, or an ``AutoModel`` class.
        source: Folder or Hub name.
        config: Resolved configuration of the model.
        options: See :func:`~rerank_plugins.backends.hub.hub_options`.
        model_config: The transformers configuration; None reads it from the files.

    Raises:
        ModelLoadError: If a weight is missing, because it would be random.
    """
    model, report = cls.from_pretrained(
        source,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        adapter_kwargs=adapter_options(options),
        output_loading_info=True,
        **options,
        **({} if model_config is None else {"config": model_config}),
    )
    if report["missing_keys"]:
        message = (
            f"{config.model!r} lacks the weights {', '.join(sorted(report['missing_keys']))}: "
            "they would be random. It is not a trained reranker."
        )
        raise ModelLoadError(message)
    return model


def validate_head(settings: Any, model: str) -> None:  # noqa: ANN401  (a model's own class)
    """Check that a transformers configuration describes a reranker.

    Args:
        settings: The transformers configuration.
        model: Name of the model.

    Raises:
        ModelLoadError: If it describes another kind of model, which the message names.
    """
    architectures = settings.architectures or []
    if not any(name.endswith(_HEAD) for name in architectures):
        kind = ", ".join(architectures) or f"a {settings.model_type} model without a head"
        message = (
            f"{model!r} is {kind}, not a reranker: this backend needs a *{_HEAD} model with "
            "one or two labels. (Use BiEncoder for a bi-encoder.)"
        )
        raise ModelLoadError(message)
    if settings.num_labels not in _LABELS:
        names = ", ".join(settings.id2label.values())
        message = (
            f"{model!r} has {settings.num_labels} labels ({names}): it is a classifier. A reranker "
            "has one label, or two labels of which the second is 'relevant'."
        )
        raise ModelLoadError(message)


def model_max_seq_length(model: Any, tokenizer: Any) -> int:  # noqa: ANN401  (one of many classes)
    """Return the maximum sequence length of a model.

    Raises:
        ModelLoadError: If its files contain no valid length.
    """
    # The models of T5's family have no limit.
    positions = int(getattr(model.config, "max_position_embeddings", None) or _UNLIMITED)
    limits = (
        ("max_position_embeddings", positions - first_position(model)),
        ("model_max_length", tokenizer.model_max_length),
    )
    return smallest_max_seq_length(limits, tokenizer.name_or_path)


def first_position(model: Any) -> int:  # noqa: ANN401  (one of many model classes)
    """Return the position id of the first token of a sequence.

    RoBERTa's family starts at ``padding_idx + 1``, so its table of 514 positions is enough for 512
    tokens. Counting from 0 would silently change every score.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if isinstance(table, torch.nn.Embedding) and isinstance(padding, int):
            return padding + 1
    return 0


def is_small(model: torch.nn.Module) -> bool:
    """Return whether a model has few weights, embedding tables excluded."""
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    weights = sum(weight.numel() for weight in model.parameters())
    return weights - sum(table.weight.numel() for table in tables) <= _SMALL
