"""The torch backend: encoders with a relevance head, padding-free where that is known to work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from rerank_plugins.backends._devices import mapped_out_of_memory, resolve_local
from rerank_plugins.backends._tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import PROBES, first_position, load_reranker, reach_of
from rerank_plugins.backends.torch.packing import PackedModel, can_pack
from rerank_plugins.backends.torch.pairs import PairReader, PairTokenizer, TokenPair
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.core.protocols import FloatArray, Prepared
from rerank_plugins.core.types import ModelIdentity, ScoreScale
from rerank_plugins.errors import EngineClosedError

_log = logging.getLogger(__name__)

_BATCH_TOKENS: Final = {"cpu": 2_048, "mps": 8_192, "cuda": 16_384}

_CPU_STEP: Final = 64
"""On a CPU the packed tokens are filled up to a multiple of this. oneDNN compiles a kernel for
each number of tokens and torch keeps a thousand of them: without this about a gigabyte."""


class TorchCrossEncoder(PairReader):
    """Any ``AutoModelForSequenceClassification`` reranker with one or two labels.

    Attributes:
        prompts: What the model's own configuration wants put before queries and documents.
        padded: Whether batches are padded, because the architecture is not one that can be
            packed, or because packing did not pass the check at load.
    """

    scale = ScoreScale.LOGIT
    resolve = staticmethod(resolve_local)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device.

        Raises:
            ModelLoadError: If there is no such model, or it is not a reranker.
        """
        model, tokenizer, digest, self.prompts = load_reranker(config)
        first = first_position(model)
        reach = reach_of(model, tokenizer)
        self.identity = ModelIdentity(
            config.model, config.revision, config.backend, config.dtype, reach, digest
        )
        self.device = torch.device(str(config.device))
        self.batch_tokens = _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cpu"])
        self._pairs = PairTokenizer(private_tokenizer(tokenizer, config.model), config.model)
        self._pad = int(tokenizer.pad_token_id or 0)
        self._typed = "token_type_ids" in tokenizer.model_input_names
        _head_in_float32(model)
        self._model: Any = model.to(self.device)
        self._packed = self._checked_packing(first) if can_pack(model) else None
        self.padded = self._packed is None

    def run(self, batch: Sequence[Prepared]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        if self._model is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        filled = [*batch, *self._filler(sum(one.tokens for one in batch))]
        order = sorted(range(len(filled)), key=lambda row: -filled[row].tokens)
        longest_first = [filled[row] for row in order]
        with torch.inference_mode(), mapped_out_of_memory():
            if self._packed is None:
                logits = self._model(**self._padded_inputs(longest_first)).logits
            else:
                logits = self._packed(*self._packed_inputs(longest_first))
            # A two-label head gives (not relevant, relevant), a one-label head the latter.
            raw = logits[:, -1].float().cpu().numpy()
        scores: FloatArray = np.empty(len(filled), dtype=np.float32)
        scores[order] = raw
        return scores[: len(batch)]

    def close(self) -> None:
        """Release the model's memory."""
        self._model = self._packed = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _filler(self, tokens: int) -> list[Prepared]:
        """Return a sequence that nobody asked for, where it helps, or none."""
        short = -tokens % _CPU_STEP
        useful = self._packed is not None and self.device.type == "cpu"
        if not useful or not 0 < short <= self.identity.max_length:
            return []
        nothing = TokenPair(np.full(short, self._pad, np.int32), np.zeros(short, np.int32))
        return [Prepared(tokens=short, truncated=False, payload=nothing)]

    def _packed_inputs(
        self, batch: Sequence[Prepared]
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[int]]:
        ids = self._to_device(np.concatenate([one.payload.ids for one in batch]))
        types = None
        if self._typed:
            types = self._to_device(np.concatenate([one.payload.types for one in batch]))
        return ids, types, [one.tokens for one in batch]

    def _padded_inputs(self, batch: Sequence[Prepared]) -> dict[str, torch.Tensor]:
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
        return {name: self._to_device(array) for name, array in inputs.items()}

    def _to_device(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array.astype(np.int64, copy=False))
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _checked_packing(self, first_position: int) -> PackedModel | None:
        """Return the packed model if it scores awkward pairs as the padded one does."""
        self._packed = None
        probes = self.prepare(PROBES, 128)
        padded = self.run(probes)
        usual = self._model.config._attn_implementation  # noqa: SLF001  (no public reader)
        self._packed = PackedModel(self._model, first_position)
        difference = float(np.abs(self.run(probes) - padded).max())
        allowed = 1e-4 if self.identity.dtype == "float32" else 0.02 * (1 + np.abs(padded).max())
        if difference <= allowed:
            return self._packed
        _log.warning(
            "%r: packed scores differ from padded ones by %g (allowed %g); batches are padded.",
            self.identity.model,
            difference,
            allowed,
        )
        self._model.set_attn_implementation(usual)
        return None


def _head_in_float32(model: Any) -> None:  # noqa: ANN401  (one of many model classes)
    """Keep the head in float32: half precision there would make close scores tie."""

    def widen(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.float() for tensor in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(widen)
