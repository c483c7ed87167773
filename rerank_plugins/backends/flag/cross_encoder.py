"""The flag cross-encoder: FlagEmbedding's rerankers, selected by their configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import safe_open
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, Gemma2Config, Gemma2Model, GraniteConfig, GraniteModel
from transformers.masking_utils import create_causal_mask

from rerank_plugins._lazy import require
from rerank_plugins.backends.decoder.cross_encoder import DecoderCrossEncoder, resolve_decoder
from rerank_plugins.backends.decoder.loading import (
    Head,
    LoadedDecoder,
    ModelSource,
    cache_argument,
    config_max_seq_length,
    digest,
    last_states,
    load_decoder,
    open_source,
    pad_ids,
)
from rerank_plugins.backends.decoder.prompts import PromptedPair, PromptTokenizer, family_template
from rerank_plugins.backends.detection import (
    FLAG_VARIANTS,
    GEMMA,
    LIGHTWEIGHT,
    Prompt,
    family,
    read_architecture,
)
from rerank_plugins.backends.hub import cross_encoder_folder, hub_options, locate, quiet_loading
from rerank_plugins.backends.model_files import find_file, read_json
from rerank_plugins.backends.model_specs import DecoderSpec, FlagSpec
from rerank_plugins.backends.torch.batch import BatchBuilder
from rerank_plugins.backends.torch.loading import load_weights, model_max_seq_length, validate_head
from rerank_plugins.backends.torch.tokenization import PairTokenizer, TokenPair
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

_COMPRESSION: Final = ("compress_ratio", "compress_layers")

_PROMPT: Final = ("prompt", "query_instruction", "passage_instruction")


class FlagCrossEncoder(DecoderCrossEncoder):
    """BGE's rerankers with FlagEmbedding's models and prompts, but not its tokenization or batches.

    This avoids FlagEmbedding's defects: it scores batches twice, truncates queries before
    documents, takes any error for a lack of memory, shares a tokenizer between threads, and uses
    devices that were not requested.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device."""
        spec = cast("FlagSpec | None", config.spec) or FlagSpec(config.model)
        variant = spec.variant if spec.variant != "auto" else _detect_variant(config)
        if variant == "encoder-only":
            spec.refuse(variant, "cutoff_layers", *_COMPRESSION, *_PROMPT)
            encoder = FlagEncoder(config)
            self._use_tokenizer(config, encoder)
            self._model = encoder
            return
        if variant == "decoder-only":
            spec.refuse(variant, "cutoff_layers", *_COMPRESSION)
            gemma = DecoderSpec(config.model, family="gemma")
            loaded = load_decoder(config, gemma, customize_prompt(GEMMA, spec))
        elif variant == "layerwise":
            spec.refuse(variant, *_COMPRESSION)
            loaded = load_layerwise(config, spec)
        else:
            loaded = load_lightweight(config, spec)
        self._use_tokenizer(config, loaded)
        if variant == "lightweight":
            base, head = loaded.base.to(self.device), loaded.head.to(self.device)
            self._model = CompressingScorer(base, head, spec)
        else:
            self._use_last_token(loaded, reuse=True)

    @staticmethod
    def resolve(config: ModelConfig) -> ModelConfig:
        """Choose device and data type, and add a default spec; see ``resolve_decoder``."""
        return resolve_decoder(config.replace(spec=config.spec or FlagSpec(config.model)))


def _detect_variant(config: ModelConfig) -> str:
    """Return the variant of a model, from its architecture or its name."""
    source = locate(config, cross_encoder_folder)
    with quiet_loading(config.model):
        fields = read_json(source, "config.json", hub_options(config, source)) or {}
    architecture = read_architecture(fields)
    if architecture in FLAG_VARIANTS:
        return FLAG_VARIANTS[architecture]
    known = family(config.model)
    if known is not None and known.backend == "flag":
        return "decoder-only"
    if architecture.endswith("ForSequenceClassification"):
        return "encoder-only"
    message = (
        f"{config.model!r} has the architecture {architecture or None!r}, which is not one of "
        "FlagEmbedding's rerankers. If it was trained from one of them, give its variant: "
        'FlagSpec(..., variant="decoder-only").'
    )
    raise ModelLoadError(message)


class FlagEncoder:
    """An encoder reranker as FlagReranker loads it, computed on padded batches."""

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device."""
        flag: Any = require("FlagEmbedding", "flag")
        device, dtype = torch.device(str(config.device)), getattr(torch, config.dtype)
        with quiet_loading(config.model):
            source = open_source(config)
            validate_head(AutoConfig.from_pretrained(source.name, **source.options), config.model)
            # FlagReranker takes no revision. In a folder, it prefers safetensors.
            weights = find_file(source.name, "model.safetensors", source.options)
            if weights is None:
                message = f"{config.model!r} has no model.safetensors. Save it again as one."
                raise ModelLoadError(message)
            folder = str(Path(weights).parent)
            reranker = flag.FlagReranker(folder, use_fp16=False, devices=[str(device)])
        # Only the model is kept: a FlagReranker would start processes, and stop them when it is
        # garbage-collected.
        self._model = reranker.model.to(device, dtype).eval()
        self._batches = BatchBuilder(
            device,
            dtype,
            typed="token_type_ids" in source.tokenizer.model_input_names,
            pad_id=int(source.tokenizer.pad_token_id or 0),
        )
        self.pairs = PairTokenizer(source.rust, config.model)
        self.max_seq_length = model_max_seq_length(self._model, source.tokenizer)
        self.fingerprint = digest(source.name, config)

    def __call__(self, batch: Sequence[TokenPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``."""
        logits: torch.Tensor = self._model(**self._batches.pad(batch)).logits
        return logits[:, -1]


def load_layerwise(config: ModelConfig, spec: FlagSpec) -> LoadedDecoder:
    """Load a MiniCPM with a head for every layer from a start layer on."""
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


class CompressingScorer:
    """Scores batches of prompted pairs; before some layers, runs of document tokens are averaged.

    Source: FlagEmbedding's ``CostWiseGemmaModel`` and ``token_compress``.
    """

    def __init__(self, base: Any, head: Head, spec: FlagSpec) -> None:  # noqa: ANN401
        """Use a loaded Gemma 2 without its output layer."""
        layers, ratio = spec.compress_layers, spec.compress_ratio
        self._base = base
        self._head = head
        self._device = head.rows.device
        self._layers = layers if ratio > 1 else ()
        self._ratio = ratio

    def __call__(self, batch: Sequence[PromptedPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``, float32."""
        ids, lengths = pad_ids([pair.ids for pair in batch])
        states = self._base.embed_tokens(ids.to(self._device))
        mask, rotation = self._mask_and_rotation(states)
        for number, layer in enumerate(self._base.layers):
            if number in self._layers:
                states, lengths = self._compress(states, batch, lengths)
                mask, rotation = self._mask_and_rotation(states)
            states = layer(states, attention_mask=mask, position_embeddings=rotation)
        scores: torch.Tensor = self._head(self._base.norm(last_states(states, lengths)))
        return scores

    def _mask_and_rotation(self, states: torch.Tensor) -> tuple[Any, Any]:
        """Return the causal mask and the position embeddings; padding is on the right."""
        uncached: dict[str, Any] = {cache_argument(create_causal_mask): None}
        mask = create_causal_mask(
            config=self._base.config, inputs_embeds=states, attention_mask=None, **uncached
        )
        positions = torch.arange(states.shape[1], device=self._device)[None]
        return mask, self._base.rotary_emb(states, positions)

    def _compress(
        self, states: torch.Tensor, batch: Sequence[PromptedPair], lengths: list[int]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return states in which each run of document tokens is replaced by its mean."""
        rows = []
        for row, pair, length in zip(states, batch, lengths, strict=True):
            end = length - pair.tail
            runs = row[pair.head : end].split(self._ratio)
            means = [(run * (1 / len(run))).sum(0, keepdim=True) for run in runs if len(run)]
            rows.append(torch.cat([row[: pair.head], *means, row[end:length]]))
        return pad_sequence(rows, batch_first=True), [len(row) for row in rows]


def customize_prompt(prompt: Prompt, spec: FlagSpec) -> Prompt:
    """Return a variant's prompt with the texts of the spec."""
    after = prompt.after if spec.prompt is None else (prompt.after[0], spec.prompt)
    return prompt._replace(
        before=(*prompt.before[:-1], spec.query_instruction),
        between=(*prompt.between[:-1], spec.passage_instruction),
        after=after,
    )


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
    path = file and find_file(source.name, file, source.options)
    if path is not None:
        with safe_open(path, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118  (it is not a mapping)
                return Head(tensors.get_tensor(name), softcap=softcap)
    message = f"{config.model!r} lacks the weights {name}: it is not a trained reranker."
    raise ModelLoadError(message)


def _assemble(
    config: ModelConfig,
    spec: FlagSpec,
    source: ModelSource,
    parts: tuple[Any, Head],
    prompt: Prompt,
) -> LoadedDecoder:
    base, head = parts
    template = family_template(source.tokenizer, source.rust, customize_prompt(prompt, spec))
    others = {**spec.to_dict(), "model": None, "variant": None}
    return LoadedDecoder(
        base.eval(),
        head,
        PromptTokenizer(template, source.rust, config.model),
        config_max_seq_length(base.config, source.tokenizer),
        digest(source.name, config, *others.values()),
    )
