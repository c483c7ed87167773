"""The OpenVINO cross-encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
import torch

from rerank_plugins.backends.openvino.conversion import (
    calibration_pairs,
    classifier_module,
    validate_agreement,
)
from rerank_plugins.backends.openvino.runtime import InputBuilder, OpenVINOBackend
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import PROBES, load_reranker, model_max_seq_length
from rerank_plugins.backends.torch.tokenization import PairTokenizer, PairTokenizerMixin
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale, TextPair

_CALIBRATION_LENGTH: Final = 256
"""Maximum tokens of a calibration pair: longer ones were measured to widen no range."""


class OpenVINOCrossEncoder(PairTokenizerMixin, OpenVINOBackend):
    """Any ``AutoModelForSequenceClassification`` reranker that OpenVINO can convert.

    Attributes:
        prompts: Prompts of the model's own configuration for queries and documents.
    """

    scale = ScoreScale.LOGIT

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration, and convert it if it is not cached."""
        loaded = load_reranker(config.replace(dtype="float32"))
        tokenizer, network = loaded.tokenizer, loaded.model
        typed = "token_type_ids" in tokenizer.model_input_names
        module = classifier_module(network, typed=typed)
        self.prompts = loaded.prompts
        self._pairs = PairTokenizer(private_tokenizer(tokenizer, config.model), config.model)
        self._max_seq_length = model_max_seq_length(network, tokenizer)
        self._build_inputs = InputBuilder(int(tokenizer.pad_token_id or 0), module.inputs, typed)
        calibration = calibration_pairs(config) if config.dtype == "int8" else ()
        self.identity = ModelIdentity(
            config.model,
            config.revision,
            config.backend,
            config.dtype,
            self._max_seq_length,
            _fingerprint(loaded.fingerprint, calibration),
        )
        texts = self.prepare(calibration, _CALIBRATION_LENGTH)
        self._compile(config, module, network, texts, loaded.fingerprint)
        probes = self.prepare(PROBES, 128)
        validate_agreement(config, self.run(probes), self._torch_scores(network, probes))

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        return self._outputs(batch)

    def _torch_scores(self, network: torch.nn.Module, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Return torch's scores, computed for each item on its own."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        scores = []
        with torch.inference_mode():
            for item in batch:
                arrays = map(torch.from_numpy, self._build_inputs([item.payload], item.tokens))
                logits = network(**dict(zip(names, arrays, strict=False))).logits
                scores.append(logits[0, -1].item())
        return np.array(scores, dtype=np.float32)


def _fingerprint(files: str, calibration: Sequence[TextPair]) -> str:
    """Return the digest of what scores depend on; in int8, the calibration texts belong to it."""
    if not files or not calibration:
        return files
    return blake2b(json.dumps([files, calibration]).encode(), digest_size=32).hexdigest()
