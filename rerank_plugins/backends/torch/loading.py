"""Loading of encoder rerankers, checks that a model is a reranker, and its data type."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rerank_plugins.backends.devices import resolve_local
from rerank_plugins.backends.hub import (
    adapter_options,
    cross_encoder_folder,
    fingerprint,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import (
    is_modular,
    read_prompts,
    smallest_max_seq_length,
    validate_modules,
    validate_source,
)
from rerank_plugins.config import Dtype, ModelConfig
from rerank_plugins.engine.backend import Role
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair

_log = logging.getLogger(__name__)

PROBES: Final = tuple(
    TextPair(query, document)
    for query, document in (("", ""), ("a", "b c"), ("who", "he " * 90), ("what is it " * 9, "x"))
)
"""Edge-case pairs on which two implementations of a model are compared when it is loaded."""

_SMALL: Final = 25_000_000
"""Number of weights up to which a core computes thousands of tokens in well under a second."""

_overflowed: Final[set[tuple[str, str | None]]] = set()
"""Model and revision of the models that overflowed in float16."""


class LoadedReranker(NamedTuple):
    """A model on the CPU, its transformers tokenizer, the digest of both, and its own prompts."""

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
    """Load a transformers model on the CPU, in the configured data type; no weight may be missing.

    ``model_config`` is its transformers configuration; None reads that from the files.
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
    """Check that a transformers configuration describes a reranker."""
    architectures = settings.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        kind = ", ".join(architectures) or f"a {settings.model_type} model without a head"
        message = (
            f"{model!r} is {kind}, not a reranker: this backend needs a "
            "*ForSequenceClassification model with one or two labels. (Use BiEncoder for a "
            "bi-encoder.)"
        )
        raise ModelLoadError(message)
    labels = f"{settings.num_labels} labels ({', '.join(settings.id2label.values())})"
    _validate_labels(settings.num_labels, model, labels)


def _validate_labels(count: int, model: str, labels: str) -> None:
    if count not in (1, 2):
        message = (
            f"{model!r} has {labels}: it is a classifier. A reranker has one label, or two labels "
            "of which the second is 'relevant'."
        )
        raise ModelLoadError(message)


def model_max_seq_length(model: Any, tokenizer: Any) -> int:  # noqa: ANN401  (one of many classes)
    """Return the maximum sequence length of a model."""
    # The models of T5's family have no limit.
    positions = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
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


class ModularModel(torch.nn.Module):
    """A modular reranker with the interface of a transformers model.

    Attributes:
        encoder: The transformers encoder without a head.
        head: The modules from a pooled vector to scores.
    """

    base_model_prefix = "encoder"

    def __init__(self, modules: CrossEncoder) -> None:
        """Use a Transformer, a Pooling, and the modules of the head."""
        super().__init__()
        self.encoder: Any = modules[0].auto_model
        self.head = ModularHead(*list(modules)[2:])
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


class ModularHead(torch.nn.Sequential):
    """The modules from a pooled vector to scores."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return raw scores of shape ``(rows, labels)``."""
        features = {"sentence_embedding": vectors}
        for module in self:
            features = module(features)
        return features["scores"]


def load_modular(config: ModelConfig, source: str, options: dict[str, Any]) -> ModularModel:
    """Load a modular reranker on the CPU, if it is an encoder, a pooling and a head."""
    modules = load_modules(config, source, options, device="cpu")
    match list(modules):
        case [Transformer(), Pooling(), _, *_]:
            return ModularModel(modules)
    names = ", ".join(type(module).__name__ for module in modules)
    message = (
        f"{config.model!r} consists of {names}; the torch backend supports a Transformer, a "
        'Pooling and a head. Use backend="sbert".'
    )
    raise ModelLoadError(message)


def load_modules(
    config: ModelConfig, source: str, options: dict[str, Any], *, device: str
) -> CrossEncoder:
    """Load a reranker, which has one label or two, with sentence-transformers."""
    validate_modules(source, options)
    model: CrossEncoder = CrossEncoder(
        source,
        device=device,
        cache_folder=options["cache_dir"],
        model_kwargs={"dtype": getattr(torch, config.dtype), "use_safetensors": True},
        **{name: value for name, value in options.items() if name != "cache_dir"},
    )
    _validate_labels(model.num_labels, config.model, f"{model.num_labels} labels")
    model.eval()
    return model


def resolve_torch(config: ModelConfig) -> ModelConfig:
    """Choose device and data type; see :func:`~rerank_plugins.backends.devices.resolve_local`.

    ``"auto"`` is kept where it means float16, because the model may fall back to bfloat16. With an
    explicit ``"float16"`` there is no fallback, so such a configuration never shares its model
    with ``"auto"``.
    """
    resolved = resolve_local(config)
    may_fall_back = config.dtype == "auto" and resolved.dtype == "float16"
    return resolved.replace(dtype="auto") if may_fall_back else resolved


def current_dtype(config: ModelConfig) -> Dtype:
    """Return the data type in which the model of a resolved configuration is computed now."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if (config.model, config.revision) in _overflowed else "float16"


def fall_back_to_bfloat16(config: ModelConfig) -> None:
    """Compute a model in bfloat16 from now on, in all replicas and after it is loaded again."""
    key = (config.model, config.revision)
    if key not in _overflowed:
        _overflowed.add(key)
        _log.warning(
            "%r overflows in float16: it is computed in bfloat16 from now on. Set dtype to choose "
            "a data type yourself.",
            config.model,
        )


def keep_head_in_float32(model: Any) -> None:  # noqa: ANN401  (one of many model classes)
    """Compute the head in float32: in half precision, close scores would become equal."""

    def widen(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.float() for tensor in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(widen)
