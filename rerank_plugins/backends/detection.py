"""Choice of the backend for ``backend="auto"``, based on the model's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from huggingface_hub import try_to_load_from_cache

from rerank_plugins.backends.families import family
from rerank_plugins.backends.hub import cross_encoder_folder, hub_options, locate, quiet_loading
from rerank_plugins.backends.model_files import Module, model_kind, read_json, read_modules
from rerank_plugins.config import MINI, ModelConfig
from rerank_plugins.errors import ModelLoadError

_PACKED_TYPES: Final = ("bert", "roberta", "xlm-roberta", "electra", "modernbert")
"""Model types that the torch backend runs without padding, also with a modular head."""

_DECODER_TYPES: Final = (
    *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "phi3"),
    *("qwen2", "qwen3", "smollm3"),
)
"""Causal model types, whose score is computed from the last token."""

_FLAG_ARCHITECTURES: Final = ("LayerWiseMiniCPMForCausalLM", "CostWiseGemmaForCausalLM")
"""Architectures of FlagEmbedding's layerwise and lightweight rerankers."""


def choose_cross_encoder(config: ModelConfig) -> str:
    """Return the name of the best backend for a cross-encoder.

    Raises:
        ModelLoadError: If the model is not a reranker; the message states what it is.
    """
    if config.model == MINI:
        return _for_encoder(config)
    source = locate(config, cross_encoder_folder)
    with quiet_loading(config.model):
        options = _options(config, source)
        modules = read_modules(source, options)
        settings = read_json(source, "config.json", options) or {}
        if not modules and _is_language_model(settings) and not Path(source).is_absolute():
            # modules.json may not be downloaded yet. Other models are searched again when loaded.
            options = hub_options(config, source)
            modules = read_modules(source, options)
        if len(modules) > 1:
            return _for_modules(config, source, options, modules, settings.get("model_type"))
    return _for_single(config, settings)


def _for_encoder(config: ModelConfig) -> str:
    """Return the backend for an encoder that the torch backend supports.

    In float32 OpenVINO is as fast as the padding-free torch backend, and int8 changes scores, so
    OpenVINO is used only for ``dtype="int8"``.
    """
    return "openvino" if config.dtype == "int8" else "torch"


def _for_modules(
    config: ModelConfig,
    source: str,
    options: dict[str, Any],
    modules: list[Module],
    model_type: str | None,
) -> str:
    kinds = [module.kind for module in modules]
    if kinds[-1] == "LogitScore":
        return "decoder" if kinds == ["Transformer", "LogitScore"] else "sbert"
    head = read_json(source, f"{modules[-1].path}/config.json", options) or {}
    has_scores = head.get("module_output_name") == "scores"
    if not has_scores and model_kind(source, options) != "CrossEncoder":
        message = (
            f"{config.model!r} is a bi-encoder ({', '.join(kinds)}), not a reranker: it embeds "
            "texts separately. Use it with BiEncoder."
        )
        raise ModelLoadError(message)
    if kinds[:2] == ["Transformer", "Pooling"] and model_type in _PACKED_TYPES:
        pooling = read_json(source, f"{modules[1].path}/config.json", options) or {}
        if pooling.get("pooling_mode") == "cls" or pooling.get("pooling_mode_cls_token"):
            return _for_encoder(config)
    return "sbert"


def _for_single(config: ModelConfig, settings: dict[str, Any]) -> str:
    architecture = str((settings.get("architectures") or [""])[0])
    if architecture in _FLAG_ARCHITECTURES:
        return "flag"
    known_family = family(config.model)
    if known_family is not None:
        return known_family.backend
    if architecture.endswith("ForCausalLM"):
        message = (
            f"{config.model!r} is {architecture}, a generative language model, and its files do "
            "not describe how it reranks. If it is a fine-tuned reranker, name the family of its "
            'prompt, for example DecoderSpec(..., family="qwen3").'
        )
        raise ModelLoadError(message)
    if architecture.endswith("ForSequenceClassification"):
        if settings.get("model_type") in _DECODER_TYPES:
            return "decoder"
        return _for_encoder(config)
    return "torch"  # which raises an error that states what the model is


def _is_language_model(settings: dict[str, Any]) -> bool:
    return str((settings.get("architectures") or [""])[0]).endswith("ForCausalLM")


def _options(config: ModelConfig, source: str) -> dict[str, Any]:
    """Return the Hub's options, without network access if the configuration is local."""
    is_local = Path(source).is_absolute() or isinstance(
        try_to_load_from_cache(
            source, "config.json", cache_dir=config.cache_folder, revision=config.revision
        ),
        str,
    )
    return hub_options(config.replace(local_files_only=config.local_files_only or is_local), source)
