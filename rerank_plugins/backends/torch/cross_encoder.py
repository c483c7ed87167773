"""The torch cross-encoder: encoders with a relevance head, packed where possible."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.batch import (
    BatchBuilder,
    compute_longest_first,
    cross_encoder_batch_tokens,
)
from rerank_plugins.backends.torch.cpu_parallel import CPUThreadPool, create_thread_pool
from rerank_plugins.backends.torch.loading import (
    PROBES,
    current_dtype,
    fall_back_to_bfloat16,
    first_position,
    keep_head_in_float32,
    load_reranker,
    model_max_seq_length,
    resolve_torch,
)
from rerank_plugins.backends.torch.packing import (
    PackedModel,
    can_pack,
    is_bert_like,
    outputs_agree,
)
from rerank_plugins.backends.torch.tokenization import PairTokenizer, PairTokenizerMixin
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, EngineClosedError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale

_GRAPH_THREAD: Final = ThreadPoolExecutor(1, "cuda-graphs")
"""The only thread of this process that runs compiled CUDA graphs. torch keeps their state per
thread and counts their steps per process, so two threads would overwrite each other's outputs. This
thread launches kernels, and the calling threads wait for the results, so several devices compute at
the same time."""


class TorchCrossEncoder(PairTokenizerMixin):
    """Any ``AutoModelForSequenceClassification`` reranker with one or two labels.

    Attributes:
        prompts: Prompts of the model's own configuration for queries and documents.
        is_padded: Whether batches are padded, because the architecture cannot be packed, or because
            the packed model failed the check at load.
    """

    scale = ScoreScale.LOGIT
    resolve = staticmethod(resolve_torch)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device."""
        self.device = torch.device(str(config.device))
        self.batch_tokens = cross_encoder_batch_tokens(self.device)
        self._config = config
        self._closed = False
        self._lock = threading.RLock()
        self._model: Any = None
        self._packed: PackedModel | None = None
        self._thread_pool: CPUThreadPool | None = None
        self._load()

    @property
    def identity(self) -> ModelIdentity:
        """The identity for the next batch; its data type changes if float16 overflows."""
        return replace(self._loaded, dtype=current_dtype(self._config))

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        with self._lock:
            if self._closed:
                message = f"the model {self.identity.model!r} was closed."
                raise EngineClosedError(message)
            if self._model is None or self._loaded.dtype != current_dtype(self._config):
                self._load()  # float16 has overflowed in another replica
            scores = self._scores(batch)
            if self._has_overflowed(scores):
                fall_back_to_bfloat16(self._config)
                self._load()
                scores = self._scores(batch)
            return scores

    def close(self) -> None:
        """Release the model's memory."""
        with self._lock:
            self._closed = True
            self._release()

    def _release(self) -> None:
        self._model = None
        self._packed = None
        if self._thread_pool is not None:
            self._thread_pool.close()
            self._thread_pool = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self) -> None:
        """Load the model in its current data type; if it overflows, in bfloat16."""
        self._release()
        config = self._config.replace(dtype=current_dtype(self._config))
        model, tokenizer, fingerprint, self.prompts = load_reranker(config)
        self._max_seq_length = model_max_seq_length(model, tokenizer)
        self._loaded = ModelIdentity(
            config.model,
            config.revision,
            config.backend,
            config.dtype,
            self._max_seq_length,
            fingerprint,
        )
        self._pairs = PairTokenizer(private_tokenizer(tokenizer, config.model), config.model)
        self._batches = BatchBuilder(
            self.device,
            getattr(torch, config.dtype),
            typed="token_type_ids" in tokenizer.model_input_names,
            pad_id=int(tokenizer.pad_token_id or 0),
            first_position=first_position(model),
            cuda_graphs=config.optimize == "reduce-overhead",
        )
        validate_optimize(config, model)
        keep_head_in_float32(model)
        self._model = model.to(self.device)
        probes = self.prepare(PROBES, 128)
        padded = self._scores(probes)
        if self._has_overflowed(padded):
            fall_back_to_bfloat16(self._config)
            self._load()
            return
        self._packed = self._validated_packing(probes, padded) if can_pack(model) else None
        self.is_padded = self._packed is None
        if self._packed is not None and config.optimize == "none" and self.device.type == "cpu":
            self._thread_pool = create_thread_pool(model, config.model)
        if self._thread_pool is not None:
            self.batch_tokens = self._thread_pool.batch_tokens

    def _has_overflowed(self, scores: FloatArray) -> bool:
        """Return whether float16 has overflowed and may be replaced by bfloat16."""
        may_fall_back = self._config.dtype == "auto" and self._loaded.dtype == "float16"
        return may_fall_back and not bool(np.isfinite(scores).all())

    def _scores(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if self._thread_pool is None:
            return self._compute(batch)
        return self._thread_pool.run(self._compute, batch)

    def _compute(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if self._packed is None:
            return compute_longest_first(batch, self._logits)
        rounded = self._batches.round_up(batch, self._max_seq_length)
        return compute_longest_first(rounded, self._logits)[: len(batch)]

    def _logits(self, batch: Sequence[TokenizedItem]) -> torch.Tensor:
        if self._packed is None:
            inputs = self._batches.pad([item.payload for item in batch])
            logits = self._model(**inputs).logits
        elif self._config.optimize == "reduce-overhead":
            compute = torch.inference_mode()(self._packed)
            logits = _GRAPH_THREAD.submit(compute, self._batches.pack(batch)).result()
        else:
            logits = self._packed(self._batches.pack(batch))
        # Two labels are (not relevant, relevant), a single label is relevant.
        relevant: torch.Tensor = logits[:, -1]
        return relevant

    def _validated_packing(
        self, probes: Sequence[TokenizedItem], padded: FloatArray
    ) -> PackedModel | None:
        """Return the packed model if it scores the probes like the padded one."""
        attention = self._model.config._attn_implementation  # noqa: SLF001  (no public property)
        name, dtype = self.identity.model, self.identity.dtype
        self._packed = PackedModel(self._model, self._config.optimize)
        # A CUDA graph is warmed up, then recorded, and replayed from the third run on.
        runs = 3 if self._config.optimize == "reduce-overhead" else 1
        scores = np.stack([self._scores(probes) for _ in range(runs)])
        if outputs_agree(scores, padded, name, dtype):
            return self._packed
        self._model.set_attn_implementation(attention)
        return None


def validate_optimize(config: ModelConfig, model: Any) -> None:  # noqa: ANN401
    """Check that a model of a resolved configuration can be optimized."""
    if config.optimize == "none":
        return
    if not (can_pack(model) and is_bert_like(model)):
        message = (
            f"optimize is {config.optimize!r}, and {config.model!r} is a "
            f"{model.config.model_type} model; only BERT, RoBERTa and ELECTRA models can be "
            "compiled. Set optimize to 'none'."
        )
        raise ConfigurationError(message)
    device = str(config.device)
    if config.optimize == "reduce-overhead" and torch.device(device).type != "cuda":
        message = (
            f"optimize is 'reduce-overhead', which records CUDA graphs, and {config.model!r} is "
            f"computed on {device!r}; allowed there are 'none' and 'compile'. Set one of these, "
            "or device to a CUDA device."
        )
        raise ConfigurationError(message)
