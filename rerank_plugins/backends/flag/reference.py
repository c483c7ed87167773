"""FlagEmbedding's own FlagReranker, as a reference: its model, fed by us."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig
from transformers.utils.hub import cached_file

from rerank_plugins._optional import require
from rerank_plugins.backends._loading import quiet_loading
from rerank_plugins.backends.decoder.loading import digest, open_source
from rerank_plugins.backends.torch.loading import check_head, reach_of
from rerank_plugins.backends.torch.pairs import PairTokenizer, TokenPair
from rerank_plugins.core.config import ModelConfig


class EncoderReference:
    """An encoder as FlagReranker loads it, on padded batches.

    Attributes:
        pairs: Prepares text pairs.
        reach: Most tokens it can read.
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
        self.reach = reach_of(self._model, source.tokenizer)
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
