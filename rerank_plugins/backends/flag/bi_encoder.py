"""The flag bi-encoder: dense embeddings of FlagEmbedding's BGE-M3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel

from rerank_plugins._lazy import require
from rerank_plugins.backends.decoder.loading import digest, open_source
from rerank_plugins.backends.devices import BI_ENCODER_TOKENS, LocalModel, mapped_out_of_memory
from rerank_plugins.backends.hub import adapter_options, bi_encoder_folder, quiet_loading
from rerank_plugins.backends.torch.batch import BatchBuilder
from rerank_plugins.backends.torch.loading import model_max_seq_length
from rerank_plugins.backends.torch.tokenization import RoleTokenizer
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import RoleText, TokenizedItem, unit_vectors
from rerank_plugins.types import FloatArray


class FlagBiEncoder(LocalModel):
    """The dense vectors of FlagEmbedding's BGEM3FlagModel.

    Sparse and multi-vector outputs are not computed, so their weights, which are pickles, are not
    read. The model has no prompts of its own.

    Attributes:
        dimension: Length of an embedding.
    """

    is_padded = True

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device."""
        require("FlagEmbedding", "flag")
        from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import (  # noqa: PLC0415
            EncoderOnlyEmbedderM3ModelForInference as Inference,
        )

        with quiet_loading(config.model):
            source = open_source(config, bi_encoder_folder)
            encoder: Any = AutoModel.from_pretrained(
                source.name,
                dtype=getattr(torch, config.dtype),
                use_safetensors=True,
                adapter_kwargs=adapter_options(source.options),
                **source.options,
            )
            unused = torch.nn.Linear(1, 1)
            parts = {"model": encoder, "colbert_linear": unused, "sparse_linear": unused}
            model = Inference(parts, tokenizer=source.tokenizer)
        max_seq_length = model_max_seq_length(encoder, source.tokenizer)
        self.dimension = int(encoder.config.hidden_size)
        self._set_up(config, max_seq_length, digest(source.name, config), BI_ENCODER_TOKENS)
        self._tokens = RoleTokenizer(source.rust, {"query": "", "document": ""}, max_seq_length)
        self._batches = BatchBuilder(
            self.device,
            getattr(torch, config.dtype),
            typed=False,
            pad_id=int(source.tokenizer.pad_token_id or 0),
        )
        self._model = model.to(self.device).eval()

    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Tokenize and truncate; thread-safe."""
        return self._tokens.prepare(items, max_length)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Embed one batch; unit vectors, float32 of shape ``(len(batch), dimension)``."""
        with torch.inference_mode(), mapped_out_of_memory():
            inputs = self._batches.pad([item.payload for item in batch])
            vectors = self.model(inputs)["dense_vecs"].float().cpu().numpy()
        return unit_vectors(vectors)
