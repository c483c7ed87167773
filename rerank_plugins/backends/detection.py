"""Which backend ``"auto"`` stands for, read from the model's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from huggingface_hub import try_to_load_from_cache
from transformers.utils.hub import cached_file

from rerank_plugins.backends.families import family
from rerank_plugins.backends.hub import cross_encoder_folder, hub_options, locate, quiet_loading
from rerank_plugins.backends.model_files import Part, model_kind, read_json, read_modules
from rerank_plugins.config import MINI, ModelConfig
from rerank_plugins.engine.backend import Role
from rerank_plugins.errors import ModelLoadError

_PACKED: Final = ("bert", "roberta", "xlm-roberta", "electra", "modernbert")
"""Encoders that the torch backend runs without padding, also under a modular head."""

_DECODERS: Final = (
    *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "phi3"),
    *("qwen2", "qwen3", "smollm3"),
)
"""Model types that read from left to right: their score stands at the last token."""

_LAYERWISE: Final = ("LayerWiseMiniCPMForCausalLM", "CostWiseGemmaForCausalLM")
"""What FlagEmbedding's layerwise and lightweight rerankers call themselves."""


def choose_cross_encoder(config: ModelConfig) -> str:
    """Return the name of the backend that runs a cross-encoder best.

    Raises:
        ModelLoadError: If the model is no reranker; the message says what it is.
    """
    if config.model == MINI:
        return _for_encoder(config)
    source = locate(config, cross_encoder_folder)
    with quiet_loading(config.model):
        options = _options(config, source)
        modules = read_modules(source, options)
        settings = read_json(source, "config.json", options) or {}
        if not modules and _is_language_model(settings) and not Path(source).is_absolute():
            # Its modules.json may not have been downloaded; for others the loader looks again.
            options = hub_options(config, source)
            modules = read_modules(source, options)
        if len(modules) > 1:
            return _for_modules(config, source, options, modules, settings.get("model_type"))
    return _for_single(config, settings)


def _for_encoder(config: ModelConfig) -> str:
    """Return what runs an encoder that the torch backend knows.

    In float32 OpenVINO is level with the padding-free torch backend, as measured, and int8
    changes scores, so that nobody gets it unasked.
    """
    return "openvino" if config.dtype == "int8" else "torch"


def _for_modules(
    config: ModelConfig,
    source: str,
    options: dict[str, Any],
    modules: list[Part],
    model_type: str | None,
) -> str:
    kinds = [part.kind for part in modules]
    if kinds[-1] == "LogitScore":
        return "decoder" if kinds == ["Transformer", "LogitScore"] else "sbert"
    last = read_json(source, f"{modules[-1].path}/config.json", options) or {}
    scores = last.get("module_output_name") == "scores"
    if not scores and model_kind(source, options) != "CrossEncoder":
        message = (
            f"{config.model!r} is a bi-encoder ({', '.join(kinds)}), not a reranker: it embeds "
            "texts one by one. It belongs into BiEncoder."
        )
        raise ModelLoadError(message)
    if kinds[:2] == ["Transformer", "Pooling"] and model_type in _PACKED:
        pooling = read_json(source, f"{modules[1].path}/config.json", options) or {}
        if pooling.get("pooling_mode") == "cls" or pooling.get("pooling_mode_cls_token"):
            return _for_encoder(config)
    return "sbert"


def _for_single(config: ModelConfig, settings: dict[str, Any]) -> str:
    architecture = str((settings.get("architectures") or [""])[0])
    if architecture in _LAYERWISE:
        return "flag"
    known = family(config.model)
    if known is not None:
        return known.backend
    if architecture.endswith("ForCausalLM"):
        message = (
            f"{config.model!r} is {architecture}, a generative language model, and nothing in its "
            "files says how it reranks. If it is a tuned reranker, say which prompt it was "
            'trained with: DecoderSpec(..., family="qwen3") for example.'
        )
        raise ModelLoadError(message)
    if architecture.endswith("ForSequenceClassification"):
        if settings.get("model_type") in _DECODERS:
            return "decoder"
        return _for_encoder(config)
    return "torch"  # which says what the model is, and why it is not run


def _is_language_model(settings: dict[str, Any]) -> bool:
    return str((settings.get("architectures") or [""])[0]).endswith("ForCausalLM")


def _options(config: ModelConfig, source: str) -> dict[str, Any]:
    """Return how the files are had; the network is not asked if the configuration is here."""
    known = Path(source).is_absolute() or isinstance(
        try_to_load_from_cache(
            source, "config.json", cache_dir=config.cache_folder, revision=config.revision
        ),
        str,
    )
    return hub_options(config.replace(local_files_only=config.local_files_only or known), source)


_FILE: Final = "config_sentence_transformers.json"


def own_prompts(source: str, options: dict[str, Any]) -> dict[Role, str]:
    """Read the prompts that sentence-transformers keeps beside a model.

    Its prompt of the name ``"query"``, else its default one, goes before queries; the one of
    the name ``"document"`` before documents.

    Args:
        source: Folder or hub name.
        options: Where the hub's files are; see
            :func:`~rerank_plugins.backends.hub.hub_options`.

    Returns:
        Only what the model has; most have nothing.

    Raises:
        ModelLoadError: If the file is not what sentence-transformers writes.
    """
    where = {name: value for name, value in options.items() if name != "trust_remote_code"}
    file = cached_file(source, _FILE, _raise_exceptions_for_missing_entries=False, **where)
    if file is None:
        return {}
    try:
        settings = json.loads(Path(file).read_text(encoding="utf-8"))
        prompts = settings.get("prompts") or {}
        query = prompts.get("query") or prompts.get(settings.get("default_prompt_name") or "")
        found: dict[Role, Any] = {"query": query, "document": prompts.get("document")}
    except (AttributeError, TypeError, ValueError) as error:
        message = f"{_FILE} of {source!r} cannot be read: {error}. Mend it, or remove it."
        raise ModelLoadError(message) from error
    return {role: str(prompt) for role, prompt in found.items() if prompt}
