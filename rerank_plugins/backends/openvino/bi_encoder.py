"""Bi-encoders on a CPU through OpenVINO, in int8 where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.bi_encoder import PROBES, SentenceTransformerBiEncoder
from rerank_plugins.backends.hub import quiet_loading
from rerank_plugins.backends.openvino.conversion import build, calibration_pairs, check_agreement
from rerank_plugins.backends.openvino.cross_encoder import resolve_openvino
from rerank_plugins.backends.openvino.export import Embeddings
from rerank_plugins.backends.openvino.runtime import Runtime, batch_tokens, pad_rows
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.tokenization import RoleTokenizer, TokenPair
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import RoleText, TokenizedItem, unit_vectors
from rerank_plugins.errors import EngineClosedError
from rerank_plugins.types import FloatArray


class OpenVINOBiEncoder:
    """A sentence-transformers bi-encoder whose modules OpenVINO can compute.

    Attributes:
        dimension: Length of an embedding.
        is_padded: False: rows are filled up to the next 16 tokens only, whatever the batch.
    """

    is_padded = False
    resolve = staticmethod(resolve_openvino)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration; convert it if that was not done yet.

        Raises:
            ModelLoadError: If there is no such model, it has modules that are not known here,
                or what OpenVINO computes is not what torch computes.
            MissingDependencyError: If a package is not installed that is needed.
        """
        plain = SentenceTransformerBiEncoder(config.replace(dtype="float32"))
        module = Embeddings(plain.model, config.model)
        self.dimension = plain.dimension
        self.identity = replace(plain.identity, dtype=config.dtype)
        self._inputs = module.inputs
        self._pad = int(plain.model.tokenizer.pad_token_id or 0)
        tokenizer = private_tokenizer(plain.model.tokenizer, config.model)
        self._tokens = RoleTokenizer(tokenizer, plain.prompts, plain.identity.max_length)
        texts = [
            self._padded([one.payload], one.tokens)
            for pair in (calibration_pairs(config) if config.dtype == "int8" else ())
            for one in self.prepare([RoleText(pair.document, "document")])
        ]
        with quiet_loading(config.model):
            model = build(config, module, texts, plain.identity.fingerprint)
            self._runtime: Runtime | None = Runtime(model, config.dtype)
        self.batch_tokens = batch_tokens(plain.model, self._runtime.streams)
        wanted = plain.run(plain.prepare(PROBES, 128))
        plain.close()
        check_agreement(config, self.run(self.prepare(PROBES, 128)), wanted)

    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Put the prompts before the texts, tokenize and cut; thread-safe."""
        return self._tokens.prepare(items, max_length)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Embed one batch; unit vectors, float32 of shape ``(len(batch), dimension)``."""
        if self._runtime is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        vectors = self._runtime.rows(batch, self.identity.max_length, self._padded)
        return unit_vectors(vectors)

    def close(self) -> None:
        """Release the model's memory."""
        self._runtime = None

    def _padded(self, rows: Sequence[TokenPair], width: int) -> list[NDArray[np.int64]]:
        ids = pad_rows([row.ids for row in rows], width, self._pad)
        mask = pad_rows([np.ones_like(row.ids) for row in rows], width, 0)
        # A single text is all of one type.
        return [ids, mask, np.zeros_like(ids)][: self._inputs]
