"""The OpenVINO bi-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rerank_plugins.backends.bi_encoder import PROBES, SentenceTransformerBiEncoder
from rerank_plugins.backends.openvino.conversion import (
    PooledEncoder,
    calibration_pairs,
    validate_agreement,
)
from rerank_plugins.backends.openvino.runtime import InputBuilder, OpenVINOBackend
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.tokenization import RoleTokenizer
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import RoleText, TokenizedItem, unit_vectors
from rerank_plugins.types import FloatArray


class OpenVINOBiEncoder(OpenVINOBackend):
    """A sentence-transformers bi-encoder with a Transformer, mean or CLS pooling, and Normalize.

    Attributes:
        dimension: Length of an embedding.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration, and convert it if it is not cached."""
        reference = SentenceTransformerBiEncoder(config.replace(dtype="float32"))
        model = reference.model
        module = PooledEncoder(model, config.model)
        self.dimension = reference.dimension
        self.identity = replace(reference.identity, dtype=config.dtype)
        self._tokens = RoleTokenizer(
            private_tokenizer(model.tokenizer, config.model),
            reference.prompts,
            self.identity.max_length,
        )
        pad_id = int(model.tokenizer.pad_token_id or 0)
        self._build_inputs = InputBuilder(pad_id, module.inputs, typed=True)
        pairs = calibration_pairs(config) if config.dtype == "int8" else ()
        texts = self.prepare([RoleText(pair.document, "document") for pair in pairs])
        self._compile(config, module, model, texts, self.identity.fingerprint)
        expected = reference.run(reference.prepare(PROBES, 128))
        reference.close()
        validate_agreement(config, self.run(self.prepare(PROBES, 128)), expected)

    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Prepend the prompts to the texts, tokenize and truncate; thread-safe."""
        return self._tokens.prepare(items, max_length)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Embed one batch; unit vectors, float32 of shape ``(len(batch), dimension)``."""
        return unit_vectors(self._outputs(batch))
