"""The flag backend: FlagEmbedding's rerankers, chosen by their configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from safetensors import safe_open
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, Gemma2Config, Gemma2Model, GraniteConfig, GraniteModel
from transformers.masking_utils import create_causal_mask
from transformers.utils.hub import cached_file

from rerank_plugins._lazy import require
from rerank_plugins.backends.decoder.cross_encoder import DecoderCrossEncoder, resolve_decoder
from rerank_plugins.backends.decoder.forward import Head, LastToken, cache_argument
from rerank_plugins.backends.decoder.loading import (
    LoadedDecoder,
    Source,
    digest,
    load_decoder,
    max_length_of_config,
    open_source,
)
from rerank_plugins.backends.decoder.prompts import PromptedPair, PromptTokenizer, family_template
from rerank_plugins.backends.families import GEMMA, LIGHTWEIGHT, Prompt, family
from rerank_plugins.backends.hub import (
    adapter_options,
    cross_encoder_folder,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import read_json
from rerank_plugins.backends.model_specs import DecoderSpec, FlagSpec
from rerank_plugins.backends.torch.loading import check_head, max_length_of_model, validate_complete
from rerank_plugins.backends.torch.tokenization import PairTokenizer, TokenPair
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError


class Compressed:
    """Scores batches of prompted pairs; some tokens of a document become one on the way.

    Source: FlagEmbedding's ``CostWiseGemmaModel`` and ``token_compress``.
    """

    def __init__(
        self,
        base: Any,  # noqa: ANN401  (a Gemma2Model)
        head: Head,
        device: torch.device,
        layers: Sequence[int],
        ratio: int,
    ) -> None:
        """Use a loaded model.

        Args:
            base: Gemma 2 without its output layer.
            head: What makes scores of its states.
            device: Where both are.
            layers: Before which layers documents are compressed.
            ratio: How many tokens become one.
        """
        self._base = base
        self._head = head
        self._device = device
        self._layers = frozenset(layers) if ratio > 1 else frozenset()
        self._ratio = ratio

    def __call__(self, batch: Sequence[PromptedPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``, float32."""
        ids = pad_sequence(
            [torch.from_numpy(pair.ids.astype(np.int64)) for pair in batch], batch_first=True
        )
        states = self._base.embed_tokens(ids.to(self._device))
        lengths = [len(pair.ids) for pair in batch]
        mask, turned = self._places(states)
        for number, layer in enumerate(self._base.layers):
            if number in self._layers:
                states, lengths = self._compress(states, batch, lengths)
                mask, turned = self._places(states)
            states = layer(states, attention_mask=mask, position_embeddings=turned)
        last = torch.tensor(lengths, device=self._device) - 1
        states = states[torch.arange(len(batch), device=self._device), last]
        scores: torch.Tensor = self._head(self._base.norm(states))
        return scores

    def _places(self, states: torch.Tensor) -> tuple[Any, Any]:
        """Return the mask and the rotations; padding at the right needs no mask of its own."""
        uncached: dict[str, Any] = {cache_argument(create_causal_mask): None}
        mask = create_causal_mask(
            config=self._base.config, inputs_embeds=states, attention_mask=None, **uncached
        )
        positions = torch.arange(states.shape[1], device=self._device)[None]
        return mask, self._base.rotary_emb(states, positions)

    def _compress(
        self, states: torch.Tensor, batch: Sequence[PromptedPair], lengths: list[int]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return states in which each run of a document's tokens is their mean."""
        rows = []
        for row, pair, length in zip(states, batch, lengths, strict=True):
            end = length - pair.tail
            runs = row[pair.head : end].split(self._ratio)
            means = [(run * (1 / len(run))).sum(0, keepdim=True) for run in runs if len(run)]
            rows.append(torch.cat([row[: pair.head], *means, row[end:length]]))
        return pad_sequence(rows, batch_first=True), [len(row) for row in rows]


class EncoderReference:
    """An encoder as FlagReranker loads it, on padded batches.

    Attributes:
        pairs: Prepares text pairs.
        max_seq_length: Most tokens it can read.
        fingerprint: Of its files.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        """Load the model of a resolved configuration onto a device.

        Raises:
            ModelLoadError: If there is no such model, or it is not a reranker.
            MissingDependencyError: If the extra ``flag`` is not installed.
        """
        flag: Any = require("FlagEmbedding", "flag")
        with quiet_loading(config.model):
            source = open_source(config)
            check_head(AutoConfig.from_pretrained(source.name, **source.options), config.model)
            where = {key: one for key, one in source.options.items() if key != "trust_remote_code"}
            # It takes no revision, and reads safetensors first where a folder has them.
            folder = Path(str(cached_file(source.name, "model.safetensors", **where))).parent
            loaded = flag.FlagReranker(str(folder), use_fp16=False, devices=[str(device)])
        # Only the model: the object would start processes, and stop them when it is collected.
        self._model = loaded.model.to(device, getattr(torch, config.dtype)).eval()
        self._device = device
        self._pad = int(source.tokenizer.pad_token_id or 0)
        self._typed = "token_type_ids" in source.tokenizer.model_input_names
        self.pairs = PairTokenizer(source.rust, config.model)
        self.max_seq_length = max_length_of_model(self._model, source.tokenizer)
        self.fingerprint = digest(source.name, config)

    def __call__(self, batch: Sequence[TokenPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``."""
        ids = [torch.from_numpy(pair.ids).long() for pair in batch]
        inputs = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self._pad),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }
        if self._typed:
            types = [torch.from_numpy(pair.types).long() for pair in batch]
            inputs["token_type_ids"] = pad_sequence(types, batch_first=True)
        logits = self._model(**{name: one.to(self._device) for name, one in inputs.items()}).logits
        scores: torch.Tensor = logits[:, -1]
        return scores


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


def prompt_of(settings: FlagSpec, prompt: Prompt) -> Prompt:
    """Return a variant's prompt with what the settings put in its place."""
    after = prompt.after if settings.prompt is None else (prompt.after[0], settings.prompt)
    return prompt._replace(
        before=(*prompt.before[:-1], settings.query_instruction),
        between=(*prompt.between[:-1], settings.passage_instruction),
        after=after,
    )


def load_layerwise(config: ModelConfig, settings: FlagSpec) -> LoadedDecoder:
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


def load_lightweight(config: ModelConfig, settings: FlagSpec) -> LoadedDecoder:
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
    return loaded._replace(
        max_seq_length=min(
            loaded.max_seq_length, int(shape.sliding_window or loaded.max_seq_length)
        )
    )


def _cutoff(model: str, settings: FlagSpec, start: int, layers: int, step: int = 1) -> int:
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
    validate_complete(report, config.model)
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
    settings: FlagSpec,
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
        max_length_of_config(base.config, source.tokenizer),
        digest(source.name, config, *others.values()),
    )


_ARCHITECTURES: Final[Mapping[str, str]] = {
    "LayerWiseMiniCPMForCausalLM": "layerwise",
    "CostWiseGemmaForCausalLM": "lightweight",
}
_EARLY_EXIT: Final = ("cutoff_layers",)
_COMPRESSION: Final = ("compress_ratio", "compress_layers")
_PROMPT: Final = ("prompt", "query_instruction", "passage_instruction")


class FlagCrossEncoder(DecoderCrossEncoder):
    """BGE's rerankers: the models and prompts are FlagEmbedding's, tokens and batches ours.

    So nothing is scored twice, no query is cut to three quarters before its document, no error
    is taken for a lack of memory, no thread races for a tokenizer, and no device is used that
    was not asked for.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device.

        Raises:
            ModelLoadError: If there is no such model, or it is none of FlagEmbedding's.
            ConfigurationError: If a setting is given that its variant does not have.
            MissingDependencyError: If the variant is ``"encoder-only"`` and the extra ``flag``
                is not installed.
        """
        settings = cast("FlagSpec | None", config.spec) or FlagSpec(config.model)
        variant = settings.variant if settings.variant != "auto" else _variant(config)
        self.device = torch.device(str(config.device))
        if variant == "encoder-only":
            settings.refuse(variant, *_EARLY_EXIT, *_COMPRESSION, *_PROMPT)
            reference = EncoderReference(config, self.device)
            self._take(config, cast("LoadedDecoder", reference))
            self._forward: Any = reference
            return
        if variant == "decoder-only":
            settings.refuse(variant, *_EARLY_EXIT, *_COMPRESSION)
            plain = DecoderSpec(config.model, family="gemma")
            loaded = load_decoder(config, plain, prompt_of(settings, GEMMA))
        elif variant == "layerwise":
            settings.refuse(variant, *_COMPRESSION)
            loaded = load_layerwise(config, settings)
        else:
            loaded = load_lightweight(config, settings)
        self._take(config, loaded)
        base, head = loaded.base.to(self.device), loaded.head.to(self.device)
        if variant == "lightweight":
            layers, ratio = settings.compress_layers, settings.compress_ratio
            self._forward = Compressed(base, head, self.device, layers, ratio)
        else:
            self._forward = LastToken(base, head, self.device)
            self._forward.reuse = self._prefixes_are_exact()

    @staticmethod
    def resolve(config: ModelConfig) -> ModelConfig:
        """Choose device and data type, and one setting for a plain name; see ``resolve_decoder``.

        Raises:
            ConfigurationError: If the device is not on this machine.
        """
        return resolve_decoder(config.replace(spec=config.spec or FlagSpec(config.model)))


def _variant(config: ModelConfig) -> str:
    """Return which of FlagEmbedding's classes a model is for.

    Raises:
        ModelLoadError: If it is for none.
    """
    source = locate(config, cross_encoder_folder)
    with quiet_loading(config.model):
        settings = read_json(source, "config.json", hub_options(config, source)) or {}
    architecture = str((settings.get("architectures") or [""])[0])
    if architecture in _ARCHITECTURES:
        return _ARCHITECTURES[architecture]
    known = family(config.model)
    if known is not None and known.backend == "flag":
        return "decoder-only"
    if architecture.endswith("ForSequenceClassification"):
        return "encoder-only"
    message = (
        f"{config.model!r} is {architecture or 'of no known architecture'}, which is none of "
        "FlagEmbedding's rerankers. If it was trained from one, say which: "
        'FlagSpec(..., variant="decoder-only").'
    )
    raise ModelLoadError(message)
