"""The flag backend: FlagEmbedding's rerankers, chosen by their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import torch

from rerank_plugins.backends._families import GEMMA, family
from rerank_plugins.backends._loading import hub_options, locate, quiet_loading
from rerank_plugins.backends._mini import cross_encoder_folder
from rerank_plugins.backends._parts import read_json
from rerank_plugins.backends.decoder.forward import LastToken
from rerank_plugins.backends.decoder.loading import LoadedDecoder, load_decoder
from rerank_plugins.backends.decoder.model import DecoderCrossEncoder, resolve_decoder
from rerank_plugins.backends.decoder.settings import DecoderModel
from rerank_plugins.backends.flag.lightweight import Compressed
from rerank_plugins.backends.flag.reference import EncoderReference
from rerank_plugins.backends.flag.settings import FlagModel
from rerank_plugins.backends.flag.variants import load_layerwise, load_lightweight, prompt_of
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.errors import ModelLoadError

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
        settings = cast("FlagModel | None", config.settings) or FlagModel(config.model)
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
            plain = DecoderModel(config.model, family="gemma")
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
        return resolve_decoder(replace(config, settings=config.settings or FlagModel(config.model)))


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
        'FlagModel(..., variant="decoder-only").'
    )
    raise ModelLoadError(message)
