"""Requirements of ``optimize``, and the thread on which CUDA graphs run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

from rerank_plugins.backends.torch.inputs import PackedBatch
from rerank_plugins.backends.torch.packing import has_bert_layers
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.errors import ConfigurationError


def check_optimize(config: ModelConfig, model: Any) -> None:  # noqa: ANN401
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
