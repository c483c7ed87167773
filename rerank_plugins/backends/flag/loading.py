"""Loading of BGE's layerwise and lightweight rerankers, whose layers have heads of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from safetensors import safe_open
from transformers import Gemma2Config, Gemma2Model, GraniteConfig, GraniteModel
from transformers.utils.hub import cached_file

from rerank_plugins.backends.decoder.forward import Head
from rerank_plugins.backends.decoder.loading import LoadedDecoder, ModelSource, digest, open_source
from rerank_plugins.backends.decoder.model_config import config_max_seq_length
from rerank_plugins.backends.decoder.prompts import PromptTokenizer, family_template
from rerank_plugins.backends.families import GEMMA, LIGHTWEIGHT, Prompt
from rerank_plugins.backends.hub import quiet_loading
from rerank_plugins.backends.model_files import read_json
from rerank_plugins.backends.model_specs import FlagSpec
from rerank_plugins.backends.torch.loading import load_weights
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError

_SHARED_FIELDS: Final = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps"),
    *("num_key_value_heads", "max_position_embeddings", "pad_token_id", "bos_token_id"),
    *("eos_token_id", "attention_bias"),
)
_GEMMA_FIELDS: Final = (
    *_SHARED_FIELDS,
    *("head_dim", "query_pre_attn_scalar", "sliding_window", "attn_logit_softcapping"),
    *("final_logit_softcapping", "hidden_activation"),
)


def load_layerwise(config: ModelConfig, spec: FlagSpec) -> LoadedDecoder:
    """Load a MiniCPM with a head for every layer from a start layer on.

    Raises:
        ModelLoadError: If it is another kind of model, or has other heads.
        ConfigurationError: If ``cutoff_layers`` is not among its layers.
    """
    with quiet_loading(config.model):
        source = open_source(config)
        fields = read_json(source.name, "config.json", source.options)
        if fields.get("head_type", "simple") != "simple" or not fields.get("head_multi", True):
            message = (
                f"{config.model!r} has heads over the vocabulary; a layerwise reranker has one "
                "score per layer."
            )
            raise ModelLoadError(message)
        layers = fields["num_hidden_layers"]
        start = fields.get("start_layer", 8)
        cutoff = _cutoff(config.model, spec, start, layers)
        width = fields["hidden_size"] // fields["num_attention_heads"]
        model_config = GraniteConfig(
            **_select(fields, _SHARED_FIELDS),
            num_hidden_layers=cutoff,
            rope_parameters={"rope_type": "default", "rope_theta": fields.get("rope_theta", 1e4)},
            embedding_multiplier=fields.get("scale_emb", 1),
            residual_multiplier=fields.get("scale_depth", 1) / math.sqrt(layers),
            attention_multiplier=width**-0.5,
        )
        base = load_weights(
            GraniteModel, source.name, config, source.options, model_config=model_config
        )
        # The head after layer n is number n - start_layer.
        head = _load_head(config, source, cutoff - start)
    return _assemble(config, spec, source, (base, head), GEMMA)


def load_lightweight(config: ModelConfig, spec: FlagSpec) -> LoadedDecoder:
    """Load a Gemma 2 with heads at some of its layers.

    FlagEmbedding uses the first head at every layer, and the published scores are computed that
    way, so this backend does the same.

    Raises:
        ModelLoadError: If it is another kind of model.
        ConfigurationError: If ``cutoff_layers`` is not among its layers.
    """
    with quiet_loading(config.model):
        source = open_source(config)
        fields = read_json(source.name, "config.json", source.options)
        if not fields.get("layer_wise"):
            message = (
                f"{config.model!r} has one head over the vocabulary; a lightweight reranker has "
                "one score per layer."
            )
            raise ModelLoadError(message)
        start, step = fields.get("start_layer", 28), fields.get("layer_sep", 28)
        cutoff = _cutoff(config.model, spec, start, fields["num_hidden_layers"], step)
        model_config = Gemma2Config(
            **_select(fields, _GEMMA_FIELDS),
            num_hidden_layers=cutoff,
            rope_parameters={"rope_type": "default", "rope_theta": fields.get("rope_theta", 1e4)},
        )
        # Other implementations ignore attn_logit_softcapping; older versions did so silently.
        model_config._attn_implementation = "eager"  # noqa: SLF001  (no typed constructor argument)
        base = load_weights(
            Gemma2Model, source.name, config, source.options, model_config=model_config
        )
        head = _load_head(config, source, 0, fields.get("final_logit_softcapping", 30.0))
    loaded = _assemble(config, spec, source, (base, head), LIGHTWEIGHT)
    # FlagEmbedding ignores the sliding window; for texts within it, the scores are the same.
    window = int(model_config.sliding_window or loaded.max_seq_length)
    return loaded._replace(max_seq_length=min(loaded.max_seq_length, window))


def customize_prompt(prompt: Prompt, spec: FlagSpec) -> Prompt:
    """Return a variant's prompt with the texts of the spec."""
    after = prompt.after if spec.prompt is None else (prompt.after[0], spec.prompt)
    return prompt._replace(
        before=(*prompt.before[:-1], spec.query_instruction),
        between=(*prompt.between[:-1], spec.passage_instruction),
        after=after,
    )


def download_options(source: ModelSource) -> dict[str, Any]:
    """Return the options of a source that transformers' ``cached_file`` accepts."""
    return {name: value for name, value in source.options.items() if name != "trust_remote_code"}


def _cutoff(model: str, spec: FlagSpec, start: int, layers: int, step: int = 1) -> int:
    """Return the number of layers to compute."""
    cutoff = spec.cutoff_layers or layers
    if cutoff not in range(start, layers + 1, step):
        every = "" if step == 1 else f", every {step}th"
        message = (
            f"cutoff_layers is {cutoff}; {model!r} has scores after layers {start} to "
            f"{layers}{every}. Give one of these, or None for {layers}."
        )
        raise ConfigurationError(message)
    return cutoff


def _select(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: fields[name] for name in names if fields.get(name) is not None}


def _load_head(
    config: ModelConfig, source: ModelSource, number: int, softcap: float | None = None
) -> Head:
    name = f"lm_head.{number}.linear_head.weight"
    index = read_json(source.name, "model.safetensors.index.json", source.options)
    file = "model.safetensors" if index is None else index["weight_map"].get(name)
    path = file and cached_file(source.name, file, **download_options(source))
    with safe_open(path, framework="pt") as tensors:
        if name not in tensors.keys():  # noqa: SIM118  (it is not a mapping)
            message = f"{config.model!r} lacks the weights {name}: it is not a trained reranker."
            raise ModelLoadError(message)
        return Head(tensors.get_tensor(name), softcap=softcap)


def _assemble(
    config: ModelConfig,
    spec: FlagSpec,
    source: ModelSource,
    parts: tuple[Any, Head],
    prompt: Prompt,
) -> LoadedDecoder:
    template = family_template(source.tokenizer, source.rust, customize_prompt(prompt, spec))
    others = {**spec.to_dict(), "model": None, "variant": None}
    base, head = parts
    return LoadedDecoder(
        base.eval(),
        head,
        PromptTokenizer(template, source.rust, config.model),
        config_max_seq_length(base.config, source.tokenizer),
        digest(source.name, config, *others.values()),
    )
