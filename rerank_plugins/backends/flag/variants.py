"""Loading FlagEmbedding's decoder rerankers into transformers' own architectures.

FlagEmbedding ships modelling code for two of them that was written for transformers 4 and fails
in transformers 5. Both are known architectures with other numbers and heads: MiniCPM is
Granite (a Llama with multipliers), the lightweight one is Gemma 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers import Gemma2Config, Gemma2Model, GraniteConfig, GraniteModel
from transformers.utils.hub import cached_file

from rerank_plugins.backends._families import GEMMA, LIGHTWEIGHT, Prompt
from rerank_plugins.backends._loading import adapter_options, quiet_loading
from rerank_plugins.backends._parts import read_json
from rerank_plugins.backends.decoder.forward import Head
from rerank_plugins.backends.decoder.loading import LoadedDecoder, Source, digest, open_source
from rerank_plugins.backends.decoder.own import reach_of
from rerank_plugins.backends.decoder.prompts import family_template
from rerank_plugins.backends.decoder.tokens import PromptTokenizer
from rerank_plugins.backends.flag.settings import FlagModel
from rerank_plugins.backends.torch.loading import check_complete
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError

_SHARED: Final = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps"),
    *("num_key_value_heads", "max_position_embeddings", "pad_token_id", "bos_token_id"),
    *("eos_token_id", "attention_bias"),
)
_GEMMA: Final = (
    *_SHARED,
    *("head_dim", "query_pre_attn_scalar", "sliding_window", "attn_logit_softcapping"),
    *("final_logit_softcapping", "hidden_activation"),
)


def prompt_of(settings: FlagModel, prompt: Prompt) -> Prompt:
    """Return a variant's prompt with what the settings put in its place."""
    after = prompt.after if settings.prompt is None else (prompt.after[0], settings.prompt)
    return prompt._replace(
        before=(*prompt.before[:-1], settings.query_instruction),
        between=(*prompt.between[:-1], settings.passage_instruction),
        after=after,
    )


def load_layerwise(config: ModelConfig, settings: FlagModel) -> LoadedDecoder:
    """Load a MiniCPM whose every layer from the start layer on has a head of its own.

    Raises:
        ModelLoadError: If it is none, or its heads are of another kind.
        ConfigurationError: If ``cutoff_layers`` is not among its layers.
    """
    with quiet_loading(config.model):
        source = open_source(config)
        own = read_json(source.name, "config.json", source.options)
        if own.get("head_type", "simple") != "simple" or not own.get("head_multi", True):
            message = f"{config.model!r} has heads over the vocabulary, not one score a layer."
            raise ModelLoadError(message)
        layers = own["num_hidden_layers"]
        cutoff = _cutoff(config.model, settings, own.get("start_layer", 8), layers)
        width = own["hidden_size"] // own["num_attention_heads"]
        shape = GraniteConfig(
            **_picked(own, _SHARED),
            num_hidden_layers=cutoff,
            rope_parameters={"rope_type": "default", "rope_theta": own.get("rope_theta", 1e4)},
            embedding_multiplier=own.get("scale_emb", 1),
            residual_multiplier=own.get("scale_depth", 1) / math.sqrt(layers),
            attention_multiplier=width**-0.5,
        )
        base = _load_base(GraniteModel, shape, config, source)
        # The head after layer n is number n - start_layer.
        head = _head(config, source, cutoff - own.get("start_layer", 8))
    return _loaded(config, settings, source, (base, head), GEMMA)


def load_lightweight(config: ModelConfig, settings: FlagModel) -> LoadedDecoder:
    """Load a Gemma 2 with heads at its layers.

    FlagEmbedding reads the first head whatever the layer is; its published scores are those,
    so this does the same.

    Raises:
        ModelLoadError: If it is none.
        ConfigurationError: If ``cutoff_layers`` is not among its layers.
    """
    with quiet_loading(config.model):
        source = open_source(config)
        own = read_json(source.name, "config.json", source.options)
        if not own.get("layer_wise"):
            message = f"{config.model!r} has one head over the vocabulary, not one score a layer."
            raise ModelLoadError(message)
        step = own.get("layer_sep", 28)
        layers = own["num_hidden_layers"]
        cutoff = _cutoff(config.model, settings, own.get("start_layer", 28), layers, step)
        shape = Gemma2Config(
            **_picked(own, _GEMMA),
            num_hidden_layers=cutoff,
            rope_parameters={"rope_type": "default", "rope_theta": own.get("rope_theta", 1e4)},
        )
        # The other kinds leave out the bound of the logits, as older versions did in silence.
        shape._attn_implementation = "eager"  # noqa: SLF001  (its constructor's type hides it)
        base = _load_base(Gemma2Model, shape, config, source)
        head = _head(config, source, 0, own.get("final_logit_softcapping", 30.0))
    loaded = _loaded(config, settings, source, (base, head), LIGHTWEIGHT)
    # FlagEmbedding has no sliding window; within one both are the same.
    return loaded._replace(reach=min(loaded.reach, int(shape.sliding_window or loaded.reach)))


def _cutoff(model: str, settings: FlagModel, start: int, layers: int, step: int = 1) -> int:
    allowed = range(start, layers + 1, step)
    cutoff = settings.cutoff_layers or layers
    if cutoff not in allowed:
        every = "" if step == 1 else f", every {step}th"
        message = (
            f"cutoff_layers is {cutoff}; {model!r} has scores after layers {start} to "
            f"{layers}{every}."
        )
        raise ConfigurationError(message)
    return cutoff


def _picked(own: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: own[name] for name in names if own.get(name) is not None}


def _load_base(cls: Any, shape: Any, config: ModelConfig, source: Source) -> Any:  # noqa: ANN401
    base, report = cls.from_pretrained(
        source.name,
        config=shape,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        adapter_kwargs=adapter_options(source.options),
        output_loading_info=True,
        **source.options,
    )
    check_complete(report, config.model)
    return base.eval()


def _head(config: ModelConfig, source: Source, number: int, softcap: float | None = None) -> Head:
    name = f"lm_head.{number}.linear_head.weight"
    index = read_json(source.name, "model.safetensors.index.json", source.options)
    file = "model.safetensors" if index is None else index["weight_map"].get(name)
    where = {key: one for key, one in source.options.items() if key != "trust_remote_code"}
    path = file and cached_file(source.name, file, **where)
    with safe_open(path, framework="pt") as tensors:
        if name not in tensors.keys():  # noqa: SIM118  (it is not a mapping)
            message = f"{config.model!r} lacks the weights {name}: it is not a trained reranker."
            raise ModelLoadError(message)
        return Head(tensors.get_tensor(name), softcap=softcap)


def _loaded(
    config: ModelConfig,
    settings: FlagModel,
    source: Source,
    parts: tuple[Any, Head],
    prompt: Prompt,
) -> LoadedDecoder:
    template = family_template(source.tokenizer, source.rust, prompt_of(settings, prompt))
    others = {**settings.to_dict(), "model": None, "variant": None}
    base, head = parts
    return LoadedDecoder(
        base,
        head,
        PromptTokenizer(template, source.rust, config.model),
        reach_of(base.config, source.tokenizer),
        digest(source.name, config, *others.values()),
    )
