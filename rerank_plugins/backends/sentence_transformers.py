"""Cross-encoder backend for models of sentence-transformers that no other backend supports.

The modules of sentence-transformers compute the scores. Tokenization and truncation are this
package's, so that threads do not share a tokenizer and a query is not truncated before its
document.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from rerank_plugins.backends.decoder.prompts import PromptTokenizer, chat_template
from rerank_plugins.backends.devices import LocalModel, mapped_out_of_memory
from rerank_plugins.backends.hub import (
    cross_encoder_folder,
    fingerprint,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import (
    default_prompt,
    read_prompts,
    smallest_max_seq_length,
    validate_source,
)
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import load_modules
from rerank_plugins.backends.torch.tokenization import PairTokenizer, PairTokenizerMixin
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import Role, TokenizedItem
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import FloatArray, ScoreScale

_UNLIMITED: Final = 2**31


class SentenceTransformerCrossEncoder(PairTokenizerMixin, LocalModel):
    """Any CrossEncoder of sentence-transformers with one score or two labels.

    Attributes:
        prompts: Prefixes of queries and documents from the model's configuration.
    """

    scale = ScoreScale.LOGIT
    is_padded = True

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device."""
        source = locate(config, cross_encoder_folder)
        options = hub_options(config, source)
        with quiet_loading(config.model):
            validate_source(source, options)
            model = load_modules(config, source, options, device=str(config.device))
            self.prompts: dict[Role, str] = read_prompts(source, options)
            instruction = default_prompt(source, options)
        first: Any = model[0]
        tokenizer = model.tokenizer
        if tokenizer is None or not {"text", "message"} & first.modality_config.keys():
            message = (
                f"{config.model!r} does not accept texts, only {', '.join(first.modality_config)}."
            )
            raise ModelLoadError(message)
        limits = (
            ("max_seq_length", model.max_seq_length or _UNLIMITED),
            ("model_max_length", tokenizer.model_max_length),
        )
        self._max_seq_length = smallest_max_seq_length(limits, config.model)
        digest = fingerprint(source, config.revision, config.cache_folder)
        self._set_up(config, self._max_seq_length, digest)
        self._modality = "message" if "message" in first.modality_config else "text"
        self._has_types = (
            self._modality == "text" and "token_type_ids" in tokenizer.model_input_names
        )
        self._pads_left = first.transformer_task in ("text-generation", "any-to-any")
        self._pad_id = int(tokenizer.pad_token_id or 0)
        rust = private_tokenizer(tokenizer, config.model)
        if self._modality == "message":
            chat = (first.processing_kwargs or {}).get("chat_template") or {}
            template = chat_template(tokenizer, rust, config.model, instruction, chat)
            self._pairs = PromptTokenizer(template, rust, config.model)
            self.prompts = {}
        else:
            self._pairs = PairTokenizer(rust, config.model)
        self._model = model

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        with torch.inference_mode(), mapped_out_of_memory():
            scores = self.model(self._features(batch))["scores"]
            raw: FloatArray = scores[:, -1].float().cpu().numpy()
        return raw

    def _features(self, batch: Sequence[TokenizedItem]) -> dict[str, Any]:
        """Return the padded input of the first module."""
        shape = (len(batch), max(item.tokens for item in batch))
        arrays = {"input_ids": np.full(shape, self._pad_id), "attention_mask": np.zeros(shape, int)}
        if self._has_types:
            arrays["token_type_ids"] = np.zeros(shape, int)
        for row, item in enumerate(batch):
            # A causal model's score is computed from the last token, so padding goes first.
            columns = slice(-item.tokens, None) if self._pads_left else slice(item.tokens)
            arrays["input_ids"][row, columns] = item.payload.ids
            arrays["attention_mask"][row, columns] = 1
            if self._has_types:
                arrays["token_type_ids"][row, columns] = item.payload.types
        features: dict[str, Any] = {
            name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()
        }
        if self._pads_left:
            features["logits_to_keep"] = 1
        return features | {"modality": self._modality}
