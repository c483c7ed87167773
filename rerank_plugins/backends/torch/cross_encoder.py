"""The torch backend: encoders with a relevance head, padding-free where that is known to work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any, Final

import numpy as np
import torch

from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.batch import Inputs, PackedBatch, longest_first
from rerank_plugins.backends.torch.cpu_parallel import CPUThreadPool, lanes_for
from rerank_plugins.backends.torch.loading import (
    PROBES,
    agrees,
    current_dtype,
    first_position,
    give_up_float16,
    head_in_float32,
    load_reranker,
    max_length_of_model,
    resolve_torch,
)
from rerank_plugins.backends.torch.packing import PackedModel, can_pack, has_bert_layers
from rerank_plugins.backends.torch.tokenization import PairReader, PairTokenizer
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, EngineClosedError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale


def validate_optimize(config: ModelConfig, model: Any) -> None:  # noqa: ANN401
    """Check that a model can be optimized as configured.

    Args:
        config: Resolved configuration of the model.
        model: One of many model classes.

    Raises:
        ConfigurationError: If the architecture or the device is not supported.
    """
    if config.optimize == "none":
        return
    if not has_bert_layers(model):
        message = (
            f"optimize is {config.optimize!r}, and {config.model!r} is a "
            f"{model.config.model_type} model; BERT's, RoBERTa's and ELECTRA's can be compiled. "
            "Leave it out."
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


def on_graph_thread(
    compute: Callable[[PackedBatch], torch.Tensor], batch: PackedBatch
) -> torch.Tensor:
    """Compute a batch on the one thread of this process that runs compiled CUDA graphs.

    torch keeps their state by thread and counts their steps by process, so two threads would
    overwrite each other's outputs. The thread launches kernels, and the caller's thread waits
    for the results, so several devices compute at the same time.

    Args:
        compute: Computes a batch; its result is not an output of a graph.
        batch: The batch.
    """

    def compute_without_gradients() -> torch.Tensor:
        with torch.inference_mode():
            return compute(batch)

    return _graph_thread().submit(compute_without_gradients).result()


@cache
def _graph_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "cuda-graphs")


_BATCH_TOKENS: Final = {"cpu": 2_048, "mps": 8_192, "cuda": 16_384}


class TorchCrossEncoder(PairReader):
    """Any ``AutoModelForSequenceClassification`` reranker with one or two labels.

    Attributes:
        prompts: What the model's own configuration wants put before queries and documents.
        is_padded: Whether batches are padded, because the architecture is not one that can be
            packed, or because packing did not pass the check at load.
    """

    scale = ScoreScale.LOGIT
    resolve = staticmethod(resolve_torch)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device.

        Raises:
            ModelLoadError: If there is no such model, or it is not a reranker.
        """
        self.device = torch.device(str(config.device))
        self.batch_tokens = _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cpu"])
        self._config = config
        self._closed = False
        self._lock = threading.RLock()
        self._model: Any = None
        self._packed: PackedModel | None = None
        self._lanes: CPUThreadPool | None = None
        self._load()

    @property
    def identity(self) -> ModelIdentity:
        """What scores depend on, as the next batch is computed: the data type may change."""
        return replace(self._loaded, dtype=current_dtype(self._config))

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        with self._lock:
            if self._closed:
                message = f"the model {self.identity.model!r} was closed."
                raise EngineClosedError(message)
            if self._model is None or self._loaded.dtype != current_dtype(self._config):
                self._load()  # another replica has found that float16 does not do
            scores = self._scores(batch)
            if not self._may_stay(scores):
                give_up_float16(self._config)
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
        if self._lanes is not None:
            self._lanes.close()
            self._lanes = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self) -> None:
        """Load the model in the data type of the moment; if it overflows, in the other one."""
        self._release()
        config = self._config.replace(dtype=current_dtype(self._config))
        model, tokenizer, digest, self.prompts = load_reranker(config)
        self._max_seq_length = max_length_of_model(model, tokenizer)
        self._loaded = ModelIdentity(
            config.model,
            config.revision,
            config.backend,
            config.dtype,
            self._max_seq_length,
            digest,
        )
        self._pairs = PairTokenizer(private_tokenizer(tokenizer, config.model), config.model)
        typed = "token_type_ids" in tokenizer.model_input_names
        pad = int(tokenizer.pad_token_id or 0)
        dtype = getattr(torch, config.dtype)
        self._inputs = Inputs(
            self.device,
            dtype,
            typed=typed,
            pad=pad,
            first=first_position(model),
            cuda_graphs=config.optimize == "reduce-overhead",
        )
        validate_optimize(config, model)
        head_in_float32(model)
        self._model = model.to(self.device)
        probes = self.prepare(PROBES, 128)
        padded = self._scores(probes)
        if not self._may_stay(padded):
            give_up_float16(self._config)
            self._load()
            return
        self._packed = self._checked_packing(probes, padded) if can_pack(model) else None
        self.is_padded = self._packed is None
        if self._packed is not None and config.optimize == "none" and self.device.type == "cpu":
            self._lanes = lanes_for(model, config.model)
        if self._lanes is not None:
            self.batch_tokens = self._lanes.batch_tokens

    def _may_stay(self, scores: FloatArray) -> bool:
        """Return whether the data type will do, or is not ours to change."""
        ours = self._config.dtype == "auto" and self._loaded.dtype == "float16"
        return not ours or bool(np.isfinite(scores).all())

    def _scores(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Return the scores of a batch, in lanes where there are some."""
        return self._lanes.run(self._part, batch) if self._lanes else self._part(batch)

    def _part(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        filled = batch
        if self._packed is not None:
            filled = self._inputs.filled(batch, self.identity.max_length)
        return longest_first(filled, self._logits)[: len(batch)]

    def _logits(self, batch: Sequence[TokenizedItem]) -> torch.Tensor:
        if self._packed is None:
            logits = self._model(**self._inputs.pad(batch)).logits
        elif self._config.optimize == "reduce-overhead":
            logits = on_graph_thread(self._packed, self._inputs.packed(batch))
        else:
            logits = self._packed(self._inputs.packed(batch))
        # A two-label head gives (not relevant, relevant), a one-label head the latter.
        relevant: torch.Tensor = logits[:, -1]
        return relevant

    def _checked_packing(
        self, probes: Sequence[TokenizedItem], padded: FloatArray
    ) -> PackedModel | None:
        """Return the packed model if it scores awkward pairs as the padded one does."""
        usual = self._model.config._attn_implementation  # noqa: SLF001  (no public reader)
        name, dtype = self.identity.model, self.identity.dtype
        self._packed = PackedModel(self._model, self._config.optimize)
        # A CUDA graph is warmed up, then recorded, and gives the scores the third time.
        times = 3 if self._config.optimize == "reduce-overhead" else 1
        scores = np.stack([self._scores(probes) for _ in range(times)])
        if agrees(scores, padded, name, dtype):
            return self._packed
        self._model.set_attn_implementation(usual)
        return None
