"""What ``optimize`` asks of a model and of where it is computed."""

from __future__ import annotations

from typing import Any

from rerank_plugins.backends.torch.packing import has_bert_layers
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.errors import ConfigurationError


def check_optimize(config: ModelConfig, model: Any, *, flash: bool) -> None:  # noqa: ANN401
    """Check that a model can be optimized as it should be.

    Args:
        config: Resolved, in the data type of the moment.
        model: One of many model classes.
        flash: Whether variable-length flash attention computes it.

    Raises:
        ConfigurationError: If its architecture is another, or graphs need another device.
    """
    if config.optimize == "none":
        return
    if not has_bert_layers(model):
        done = {"compile": "compiled", "graphs": "recorded as graphs"}[config.optimize]
        message = (
            f"optimize is {config.optimize!r}, and {config.model!r} is a "
            f"{model.config.model_type} model; BERT's, RoBERTa's and ELECTRA's can be {done}. "
            "Leave it out."
        )
        raise ConfigurationError(message)
    if config.optimize == "graphs" and not flash:
        message = (
            f"optimize is 'graphs', and {config.model!r} is computed on {config.device} in "
            f"{config.dtype}; CUDA graphs need a CUDA device of compute capability 8.0 or more, "
            "float16 or bfloat16, and torch 2.10 or later. Leave it out."
        )
        raise ConfigurationError(message)
