"""The flag cross-encoder: FlagEmbedding's rerankers, selected by their configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from transformers import AutoConfig
from transformers.utils.hub import cached_file

from rerank_plugins._lazy import require
from rerank_plugins.backends.decoder.cross_encoder import DecoderCrossEncoder, resolve_decoder
from rerank_plugins.backends.decoder.loading import digest, load_decoder, open_source
from rerank_plugins.backends.families import GEMMA, family
from rerank_plugins.backends.flag.compression import CompressingScorer
from rerank_plugins.backends.flag.loading import (
    customize_prompt,
    download_options,
    load_layerwise,
    load_lightweight,
)
from rerank_plugins.backends.hub import cross_encoder_folder, hub_options, locate, quiet_loading
from rerank_plugins.backends.model_files import read_json
from rerank_plugins.backends.model_specs import DecoderSpec, FlagSpec
from rerank_plugins.backends.torch.batch import BatchBuilder
from rerank_plugins.backends.torch.loading import model_max_seq_length, validate_head
from rerank_plugins.backends.torch.tokenization import PairTokenizer, TokenPair
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ModelLoadError

_ARCHITECTURES: Final[Mapping[str, str]] = {
    "LayerWiseMiniCPMForCausalLM": "layerwise",
    "CostWiseGemmaForCausalLM": "lightweight",
}
_EARLY_EXIT: Final = ("cutoff_layers",)
_COMPRESSION: Final = ("compress_ratio", "compress_layers")
_PROMPT: Final = ("prompt", "query_instruction", "passage_instruction")


class FlagCrossEncoder(DecoderCrossEncoder):
    """BGE's rerankers with FlagEmbedding's models and prompts, but not its tokenization or batches.

    This avoids FlagEmbedding's defects: it scores batches twice, truncates queries before
    documents, takes any error for a lack of memory, shares a tokenizer between threads, and uses
    devices that were not requested.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device.

        Raises:
            ModelLoadError: If there is no such model, or it is not one of FlagEmbedding's.
            ConfigurationError: If a setting is given that its variant does not have.
            MissingDependencyError: If the variant is ``"encoder-only"`` and the extra ``flag``
                is not installed.
        """
        spec = cast("FlagSpec | None", config.spec) or FlagSpec(config.model)
        variant = spec.variant if spec.variant != "auto" else _detect_variant(config)
        if variant == "encoder-only":
            spec.refuse(variant, *_EARLY_EXIT, *_COMPRESSION, *_PROMPT)
            encoder = FlagEncoder(config)
            self._set_up(config, encoder.pairs, encoder.max_seq_length, encoder.fingerprint)
            self._compute = encoder
            return
        if variant == "decoder-only":
            spec.refuse(variant, *_EARLY_EXIT, *_COMPRESSION)
            gemma = DecoderSpec(config.model, family="gemma")
            loaded = load_decoder(config, gemma, customize_prompt(GEMMA, spec))
        elif variant == "layerwise":
            spec.refuse(variant, *_COMPRESSION)
            loaded = load_layerwise(config, spec)
        else:
            loaded = load_lightweight(config, spec)
        self._set_up(config, loaded.pairs, loaded.max_seq_length, loaded.fingerprint)
        if variant == "lightweight":
            base, head = loaded.base.to(self.device), loaded.head.to(self.device)
            layers, ratio = spec.compress_layers, spec.compress_ratio
            self._compute = CompressingScorer(base, head, self.device, layers, ratio)
        else:
            self._use_last_token(loaded, reuse=True)

    @staticmethod
    def resolve(config: ModelConfig) -> ModelConfig:
        """Choose device and data type, and add a default spec; see ``resolve_decoder``.

        Raises:
            ConfigurationError: If the device is not on this machine.
        """
        return resolve_decoder(config.replace(spec=config.spec or FlagSpec(config.model)))


class FlagEncoder:
    """An encoder reranker as FlagReranker loads it, computed on padded batches.

    Attributes:
        pairs: Tokenizes text pairs.
        max_seq_length: Maximum sequence length.
        fingerprint: Digest of the files.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device.

        Raises:
            ModelLoadError: If there is no such model, or it is not a reranker.
            MissingDependencyError: If the extra ``flag`` is not installed.
        """
        flag: Any = require("FlagEmbedding", "flag")
        device, dtype = torch.device(str(config.device)), getattr(torch, config.dtype)
        with quiet_loading(config.model):
            source = open_source(config)
            validate_head(AutoConfig.from_pretrained(source.name, **source.options), config.model)
            # FlagReranker takes no revision. In a folder, it prefers safetensors.
            weights = cached_file(source.name, "model.safetensors", **download_options(source))
            folder = str(Path(str(weights)).parent)
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


def _detect_variant(config: ModelConfig) -> str:
    """Return the variant of a model, from its architecture or its name.

    Raises:
        ModelLoadError: If the model is not one of FlagEmbedding's rerankers.
    """
    source = locate(config, cross_encoder_folder)
    with quiet_loading(config.model):
        fields = read_json(source, "config.json", hub_options(config, source)) or {}
    architecture = str((fields.get("architectures") or [""])[0])
    if architecture in _ARCHITECTURES:
        return _ARCHITECTURES[architecture]
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
