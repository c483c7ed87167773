"""Bi-encoder backend for models of sentence-transformers.

Models whose modules are supported run packed, without padding, if that gives the same embeddings
as sentence-transformers in a check at load time. All others run in sentence-transformers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from rerank_plugins.backends.detection import embedding_prompts
from rerank_plugins.backends.devices import BI_ENCODER_TOKENS, LocalModel, mapped_out_of_memory
from rerank_plugins.backends.hub import (
    bi_encoder_folder,
    fingerprint,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import (
    smallest_max_seq_length,
    validate_modules,
    validate_source,
)
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.packing import PackedEncoder, can_pack_encoder, outputs_agree
from rerank_plugins.backends.torch.tokenization import RoleTokenizer
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import Role, RoleText, TokenizedItem, unit_vectors
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import FloatArray, replace_surrogates

PROBES: Final = tuple(
    RoleText(text, role)
    for text in ("", "a", "Rain IN Spain ", "he " * 90)
    for role in ("query", "document")
)
"""Test texts, such as empty and long ones, to compare two implementations at load time."""


class SentenceTransformerBiEncoder(LocalModel):
    """Any sentence-transformers bi-encoder; embeddings are normalized to length 1.

    Attributes:
        dimension: Length of an embedding.
        prompts: The model's own prompt per role; empty if it has none.
        is_padded: Whether batches are padded, because the model runs in sentence-transformers.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device."""
        source = locate(config, bi_encoder_folder)
        options = hub_options(config, source)
        with quiet_loading(config.model):
            validate_source(source, options)
            validate_modules(source, options)
            options["cache_folder"] = options.pop("cache_dir")
            model = SentenceTransformer(
                source,
                device=str(config.device),
                model_kwargs={"dtype": getattr(torch, config.dtype), "use_safetensors": True},
                **options,
            )
        max_seq_length = smallest_max_seq_length(
            [("max_seq_length", model.max_seq_length or 512)], config.model
        )
        cache = config.cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
        dimension = model.get_embedding_dimension()
        if dimension is None:
            message = f"{config.model!r} does not define the dimension of its embeddings."
            raise ModelLoadError(message)
        self.dimension = int(dimension)
        digest = fingerprint(source, config.revision, cache)
        self._set_up(config, max_seq_length, digest, BI_ENCODER_TOKENS)
        self._tokenizer = private_tokenizer(model.tokenizer, config.model)
        defaults = embedding_prompts("" if any(model.prompts.values()) else config.model)
        self.prompts: dict[Role, str] = {
            "query": model.prompts.get("query") or defaults.query,
            "document": model.prompts.get("document") or defaults.document,
        }
        self._model = model
        self._role_tokens = RoleTokenizer(self._tokenizer, self.prompts, max_seq_length)
        self._packed = self._checked_packing() if can_pack_encoder(model) else None
        self.is_padded = self._packed is None
        if self._packed is not None and self._packed.thread_pool is not None:
            self.batch_tokens = self._packed.thread_pool.batch_tokens

    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Prefix each text with its prompt and tokenize; thread-safe."""
        if self._packed is not None:
            return self._role_tokens.prepare(items, max_length)
        return self._prepare_texts(items, max_length)

    def _prepare_texts(
        self, items: Sequence[RoleText], max_length: int | None
    ) -> list[TokenizedItem]:
        """Count tokens only: sentence-transformers tokenizes the texts itself."""
        limit = min(max_length or self.identity.max_length, self.identity.max_length)
        texts = []
        for text, role, prompt in items:
            prefix = self.prompts[role] if prompt is None else replace_surrogates(prompt)
            texts.append(RoleText(replace_surrogates(text), role, prefix))
        encodings = self._tokenizer.encode_batch_fast(
            [f"{item.prompt}{item.text}" for item in texts]
        )
        return [
            TokenizedItem(min(len(encoding), limit), len(encoding) > limit, (item, limit))
            for encoding, item in zip(encodings, texts, strict=True)
        ]

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Embed one batch; unit vectors, float32 of shape ``(len(batch), dimension)``."""
        model = self.model  # raises if the backend was closed, also for a packed model
        if self._packed is not None:
            return unit_vectors(self._packed(batch))
        return unit_vectors(self._encode(model, batch))

    def _encode(self, model: SentenceTransformer, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Embed a batch with sentence-transformers."""
        vectors = np.empty((len(batch), self.dimension), dtype=np.float32)
        # sentence-transformers takes one role, prompt and length per call.
        calls: dict[tuple[Role, str, int], list[int]] = {}
        for row, tokenized in enumerate(batch):
            item, max_seq_length = tokenized.payload
            calls.setdefault((item.role, item.prompt, max_seq_length), []).append(row)
        with mapped_out_of_memory():
            for (role, prompt, max_seq_length), rows in calls.items():
                model.max_seq_length = max_seq_length
                encode = model.encode_query if role == "query" else model.encode_document
                vectors[rows] = encode(
                    [batch[row].payload[0].text for row in rows],
                    prompt=prompt,
                    batch_size=len(rows),
                    show_progress_bar=False,
                )
        return vectors

    def _checked_packing(self) -> PackedEncoder | None:
        """Return the packed model if it embeds test texts as sentence-transformers does."""
        name, dtype = self.identity.model, self.identity.dtype
        expected = unit_vectors(self._encode(self.model, self._prepare_texts(PROBES, 128)))
        packed = PackedEncoder(
            self.model, getattr(torch, dtype), max_seq_length=self.identity.max_length, name=name
        )
        vectors = unit_vectors(packed(self._role_tokens.prepare(PROBES, 128)))
        if outputs_agree(vectors, expected, name, dtype):
            return packed
        packed.close()
        return None

    def close(self) -> None:
        """Release the model's memory."""
        if self._packed is not None:
            self._packed.close()
        super().close()
