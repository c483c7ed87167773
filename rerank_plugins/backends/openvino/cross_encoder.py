"""The OpenVINO backend: encoder cross-encoders on a CPU, in int8 where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.backends.devices import resolve_local
from rerank_plugins.backends.hub import quiet_loading
from rerank_plugins.backends.openvino.conversion import build, calibration_pairs, check_agreement
from rerank_plugins.backends.openvino.export import scoring_module
from rerank_plugins.backends.openvino.runtime import (
    Runtime,
    batch_tokens,
    pad_rows,
    validate_precision,
)
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import PROBES, load_reranker, max_length_of_model
from rerank_plugins.backends.torch.tokenization import PairReader, PairTokenizer, TokenPair
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import EngineClosedError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale, TextPair

_CALIBRATION_LENGTH: Final = 256
"""Tokens of a calibration pair: longer ones widen no range that was seen, and take longer."""


def resolve_openvino(config: ModelConfig) -> ModelConfig:
    """Choose device and data type, and name the model of the settings.

    Raises:
        ConfigurationError: If OpenVINO does not compute what is asked for here.
    """
    model = config.model if config.spec is None else str(config.spec)
    # torch's rule for "auto"; int8 is not torch's, and stands only where it was asked for.
    plain = resolve_local(
        config.replace(
            model=model,
            device=config.device or "cpu",
            dtype="float32" if config.dtype == "int8" else config.dtype,
        )
    )
    resolved = plain.replace(dtype="int8") if config.dtype == "int8" else plain
    validate_precision(resolved)
    return resolved


class OpenVINOCrossEncoder(PairReader):
    """Any ``AutoModelForSequenceClassification`` reranker that OpenVINO can convert.

    Attributes:
        prompts: What the model's own configuration wants put before queries and documents.
        is_padded: False: rows are filled up to the next 16 tokens only, whatever the batch.
    """

    scale = ScoreScale.LOGIT
    is_padded = False
    resolve = staticmethod(resolve_openvino)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration; convert it if that was not done yet.

        Raises:
            ModelLoadError: If there is no such model, it is not a reranker, or what OpenVINO
                computes is not what torch computes.
            MissingDependencyError: If int8 is asked for and NNCF is not installed.
        """
        loaded = load_reranker(config.replace(dtype="float32"))
        tokenizer, network = loaded.tokenizer, loaded.model
        self.prompts = loaded.prompts
        self._pairs = PairTokenizer(private_tokenizer(tokenizer, config.model), config.model)
        self._pad = int(tokenizer.pad_token_id or 0)
        self._typed = "token_type_ids" in tokenizer.model_input_names
        module = scoring_module(network, typed=self._typed)
        self._inputs = module.inputs
        self._max_seq_length = max_length_of_model(network, tokenizer)
        calibration = calibration_pairs(config) if config.dtype == "int8" else ()
        self.identity = ModelIdentity(
            config.model,
            config.revision,
            config.backend,
            config.dtype,
            self._max_seq_length,
            _fingerprint(loaded.fingerprint, calibration),
        )
        texts = [
            self._padded([one.payload], one.tokens)
            for one in self.prepare(calibration, _CALIBRATION_LENGTH)
        ]
        with quiet_loading(config.model):
            model = build(config, module, texts, loaded.fingerprint)
            self._runtime: Runtime | None = Runtime(model, config.dtype)
        self.batch_tokens = batch_tokens(network, self._runtime.streams)
        self._check(config, network)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        if self._runtime is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        return self._runtime.rows(batch, self.identity.max_length, self._padded)

    def close(self) -> None:
        """Release the model's memory."""
        self._runtime = None

    def _padded(self, pairs: Sequence[TokenPair], width: int) -> list[NDArray[np.int64]]:
        types = [pair.types if self._typed else np.zeros_like(pair.types) for pair in pairs]
        inputs = [
            pad_rows([pair.ids for pair in pairs], width, self._pad),
            pad_rows([np.ones_like(pair.ids) for pair in pairs], width, 0),
            pad_rows(types, width, 0),
        ]
        return inputs[: self._inputs]

    def _check(self, config: ModelConfig, network: torch.nn.Module) -> None:
        """Compare the scores of awkward pairs with those that torch computes of each alone."""
        probes = self.prepare(PROBES, 128)
        names = ("input_ids", "attention_mask", "token_type_ids")
        wanted = []
        with torch.inference_mode():
            for one in probes:
                arrays = self._padded([one.payload], one.tokens)
                inputs = {
                    name: torch.from_numpy(array)
                    for name, array in zip(names, arrays, strict=False)
                }
                wanted.append(network(**inputs).logits[0, -1].item())
        check_agreement(config, self.run(probes), np.array(wanted, dtype=np.float32))


def _fingerprint(files: str, calibration: Sequence[TextPair]) -> str:
    """Return the digest of what scores depend on: in int8 that is the calibration, too."""
    if not files or not calibration:
        return files
    return blake2b(json.dumps([files, calibration]).encode(), digest_size=32).hexdigest()
