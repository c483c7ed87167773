"""The torch backend: padded token-budget batches through an encoder with a relevance head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from rerank_plugins.backends._devices import mapped_out_of_memory, resolve_local
from rerank_plugins.backends._tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import load_reranker
from rerank_plugins.backends.torch.pairs import PairTokenizer
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.core.protocols import FloatArray, Prepared
from rerank_plugins.core.types import ModelIdentity, ScoreScale, TextPair
from rerank_plugins.errors import EngineClosedError

_UNLIMITED: Final = 2**31
_BATCH_TOKENS: Final = {"cpu": 2_048, "mps": 8_192, "cuda": 16_384}


class TorchCrossEncoder:
    """Any ``AutoModelForSequenceClassification`` reranker with one or two labels."""

    scale = ScoreScale.LOGIT
    padded = True
    resolve = staticmethod(resolve_local)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device.

        Raises:
            ModelLoadError: If there is no such model, or it is not a reranker.
        """
        model, tokenizer = load_reranker(config)
        reach = min(_reach(model), tokenizer.model_max_length)
        self.identity = ModelIdentity(
            config.model, config.revision, config.backend, config.dtype, int(reach)
        )
        self.device = torch.device(str(config.device))
        self.batch_tokens = _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cpu"])
        self._pairs = PairTokenizer(private_tokenizer(tokenizer, config.model), config.model)
        self._pad = int(tokenizer.pad_token_id or 0)
        self._typed = "token_type_ids" in tokenizer.model_input_names
        _head_in_float32(model)
        self._model: torch.nn.Module | None = model.to(self.device)

    def prepare(self, items: Sequence[TextPair], max_length: int | None = None) -> list[Prepared]:
        """Tokenise and cut text pairs; thread-safe."""
        reach = self.identity.max_length
        return self._pairs.prepare(items, min(max_length or reach, reach))

    def run(self, batch: Sequence[Prepared]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        if self._model is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        with torch.inference_mode(), mapped_out_of_memory():
            inputs = {name: part.to(self.device) for name, part in self._inputs(batch).items()}
            logits = self._model(**inputs).logits
            # A two-label head gives (not relevant, relevant), a one-label head the latter.
            scores: FloatArray = logits[:, -1].float().cpu().numpy()
        return scores

    def close(self) -> None:
        """Release the model's memory."""
        self._model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _inputs(self, batch: Sequence[Prepared]) -> dict[str, torch.Tensor]:
        shape = (len(batch), max(one.tokens for one in batch))
        ids = np.full(shape, self._pad, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, one in enumerate(batch):
            ids[row, : one.tokens] = one.payload.ids
            types[row, : one.tokens] = one.payload.types
            mask[row, : one.tokens] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._typed:
            inputs["token_type_ids"] = types
        return {name: torch.from_numpy(array) for name, array in inputs.items()}


def _reach(model: Any) -> int:  # noqa: ANN401  (one of many model classes)
    """Return the most tokens a model can read.

    RoBERTa's family numbers positions from ``padding_idx + 1``, so its table of 514
    positions reaches 512 tokens.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:  # relative positions only, as in T5: the tokenizer's limit counts
        return _UNLIMITED
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if isinstance(table, torch.nn.Embedding) and isinstance(padding, int):
            return int(positions) - padding - 1
    return int(positions)


def _head_in_float32(model: Any) -> None:  # noqa: ANN401  (one of many model classes)
    """Keep the head in float32: half precision there would make close scores tie."""

    def widen(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.float() for tensor in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(widen)
