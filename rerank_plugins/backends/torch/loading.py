"""Loading a model that really is a reranker."""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rerank_plugins.backends.detection import own_prompts
from rerank_plugins.backends.devices import resolve_local
from rerank_plugins.backends.hub import (
    adapter_options,
    cross_encoder_folder,
    fingerprint,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import is_modular, smallest_max_seq_length, validate_source
from rerank_plugins.backends.torch.modular import load_modular
from rerank_plugins.config import Dtype, ModelConfig
from rerank_plugins.engine.backend import Role
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import FloatArray, TextPair

_HEAD: Final = "ForSequenceClassification"
_LABELS: Final = (1, 2)
_UNLIMITED: Final = 2**31
_SMALL: Final = 25_000_000
"""Weights of a model with which a core computes some thousand tokens in well under a second."""

PROBES: Final = tuple(
    TextPair(query, document)
    for query, document in (("", ""), ("a", "b c"), ("who", "he " * 90), ("what is it " * 9, "x"))
)
"""Awkward pairs, on which two ways to compute a model are compared when it is loaded."""


class Loaded(NamedTuple):
    """A reranker's parts.

    Attributes:
        model: On the CPU, in evaluation mode, in the configured data type.
        tokenizer: The transformers tokenizer.
        fingerprint: Of the files that both come from.
        prompts: What its own configuration wants put before queries and documents.
    """

    model: Any
    tokenizer: Any
    fingerprint: str
    prompts: dict[Role, str]


def load_reranker(config: ModelConfig) -> Loaded:
    """Load the parts of a resolved configuration's model.

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
            model = _load_classifier(config, source, options)
        if tokenizer.chat_template:
            message = (
                f"{config.model!r} has a chat template, and the torch backend joins a query and a "
                'document without one. Use backend="decoder".'
            )
            raise ModelLoadError(message)
        prompts = own_prompts(source, options)
    digest = fingerprint(source, config.revision, config.cache_folder)
    return Loaded(model.eval(), tokenizer, digest, prompts)


def _load_classifier(config: ModelConfig, source: str, options: dict[str, Any]) -> torch.nn.Module:
    settings = AutoConfig.from_pretrained(source, **options)
    check_head(settings, config.model)
    model, report = AutoModelForSequenceClassification.from_pretrained(
        source,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        adapter_kwargs=adapter_options(options),
        output_loading_info=True,
        **options,
    )
    validate_complete(report, config.model)
    loaded: torch.nn.Module = model
    return loaded


def validate_complete(report: dict[str, Any], model: str) -> None:
    """Check that every weight came from the model's files.

    Raises:
        ModelLoadError: If one would be random.
    """
    if report["missing_keys"]:
        message = (
            f"{model!r} lacks the weights {', '.join(sorted(report['missing_keys']))}: "
            "they would be random. It is not a trained reranker."
        )
        raise ModelLoadError(message)


def check_head(settings: Any, model: str) -> None:  # noqa: ANN401  (a model's own class)
    """Check that a model's configuration describes a reranker.

    Raises:
        ModelLoadError: If it is another kind of model; the message says which.
    """
    architectures = settings.architectures or []
    if not any(name.endswith(_HEAD) for name in architectures):
        kind = ", ".join(architectures) or f"a {settings.model_type} model without a head"
        message = (
            f"{model!r} is {kind}, not a reranker: this backend needs a *{_HEAD} model with "
            "one or two labels. (A bi-encoder belongs into BiEncoder.)"
        )
        raise ModelLoadError(message)
    if settings.num_labels not in _LABELS:
        names = ", ".join(settings.id2label.values())
        message = (
            f"{model!r} has {settings.num_labels} labels ({names}): "
            "it classifies. A reranker has one label, or two of which the second is 'relevant'."
        )
        raise ModelLoadError(message)


def positions(model: Any) -> int:  # noqa: ANN401  (one of many model classes)
    """Return how many positions a model's table has; T5's family has no such bound."""
    return int(getattr(model.config, "max_position_embeddings", None) or _UNLIMITED)


def max_length_of_model(model: Any, tokenizer: Any) -> int:  # noqa: ANN401  (one of many classes)
    """Return the most tokens that a model can read.

    Raises:
        ModelLoadError: If its files say nothing sensible about it.
    """
    limits = (
        ("max_position_embeddings", positions(model) - first_position(model)),
        ("model_max_length", tokenizer.model_max_length),
    )
    return smallest_max_seq_length(limits, tokenizer.name_or_path)


def is_small(model: torch.nn.Module) -> bool:
    """Return whether a model has few weights, not counting those that are only looked up."""
    tables = [one for one in model.modules() if isinstance(one, torch.nn.Embedding)]
    weights = sum(weight.numel() for weight in model.parameters())
    return weights - sum(table.weight.numel() for table in tables) <= _SMALL


def first_position(model: Any) -> int:  # noqa: ANN401  (one of many model classes)
    """Return the position id of a sequence's first token.

    RoBERTa's family begins at ``padding_idx + 1``, so its table of 514 positions reaches 512
    tokens, and counting from 0 would silently change every score.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if isinstance(table, torch.nn.Embedding) and isinstance(padding, int):
            return padding + 1
    return 0


_log = logging.getLogger(__name__)

_overflowed: Final[set[tuple[str, str | None]]] = set()
"""Model and revision of those that gave something that is no number in float16."""


def resolve_torch(config: ModelConfig) -> ModelConfig:
    """Choose device and data type; see :func:`~rerank_plugins.backends.devices.resolve_local`.

    ``"auto"`` stays where it means float16, which may have to be given up: who asks for float16
    by name gets float16 or an error, and so does not share the model.
    """
    resolved = resolve_local(config)
    may_change = config.dtype == "auto" and resolved.dtype == "float16"
    return resolved.replace(dtype="auto") if may_change else resolved


def current_dtype(config: ModelConfig) -> Dtype:
    """Return the data type that a resolved configuration means by now."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if (config.model, config.revision) in _overflowed else "float16"


def give_up_float16(config: ModelConfig) -> None:
    """Compute a model in bfloat16 from now on, all replicas and after it is loaded again."""
    key = (config.model, config.revision)
    if key not in _overflowed:
        _overflowed.add(key)
        _log.warning(
            "%r overflows in float16: it is computed in bfloat16 from now on. Set dtype to "
            "choose yourself.",
            config.model,
        )


def agrees(packed: FloatArray, padded: FloatArray, name: str, dtype: str) -> bool:
    """Return whether a packed model computes what the padded one does; warn where not.

    Args:
        packed: Its results for awkward texts, perhaps several times.
        padded: What they should be.
        name: The model's.
        dtype: Data type of the arithmetic.
    """
    difference = float(np.abs(packed - padded).max())
    allowed = 1e-4 if dtype == "float32" else 0.02 * (1 + float(np.abs(padded).max()))
    if difference <= allowed:
        return True
    _log.warning(
        "%r: packed results differ from padded ones by %g (allowed %g); batches are padded.",
        name,
        difference,
        allowed,
    )
    return False


def head_in_float32(model: Any) -> None:  # noqa: ANN401  (one of many model classes)
    """Keep the head in float32: half precision there would make close scores tie."""

    def widen(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.float() for tensor in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(widen)
