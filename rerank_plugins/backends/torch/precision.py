"""What half precision may change: float16 on a GPU, bfloat16 for models that overflow it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from rerank_plugins.backends._devices import resolve_local
from rerank_plugins.core.config import Dtype, ModelConfig
from rerank_plugins.core.protocols import FloatArray

_log = logging.getLogger(__name__)

_overflowed: Final[set[tuple[str, str | None]]] = set()
"""Model and revision of those that gave something that is no number in float16."""


def resolve_torch(config: ModelConfig) -> ModelConfig:
    """Choose device and data type; see :func:`~rerank_plugins.backends._devices.resolve_local`.

    ``"auto"`` stays where it means float16, which may have to be given up: who asks for float16
    by name gets float16 or an error, and so does not share the model.
    """
    resolved = resolve_local(config)
    may_change = config.dtype == "auto" and resolved.dtype == "float16"
    return replace(resolved, dtype="auto") if may_change else resolved


def current_dtype(config: ModelConfig) -> Dtype:
    """Return the data type that a resolved configuration means by now."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if (config.model, config.revision) in _overflowed else "float16"


def give_up_float16(config: ModelConfig) -> None:
    """Compute a model in bfloat16 from now on, all replicas and after it is loaded again."""
    key = (config.model, config.revision)
    if key not in _overflowed:
        _overflowed.add(key)
        _log.warning(
            "%r overflows in float16: it is computed in bfloat16 from now on. Set dtype to "
            "choose yourself.",
            config.model,
        )


def agrees(packed: FloatArray, padded: FloatArray, name: str, dtype: str) -> bool:
    """Return whether a packed model computes what the padded one does; warn where not.

    Args:
        packed: Its results for awkward texts, perhaps several times.
        padded: What they should be.
        name: The model's.
        dtype: Data type of the arithmetic.
    """
    difference = float(np.abs(packed - padded).max())
    allowed = 1e-4 if dtype == "float32" else 0.02 * (1 + float(np.abs(padded).max()))
    if difference <= allowed:
        return True
    _log.warning(
        "%r: packed results differ from padded ones by %g (allowed %g); batches are padded.",
        name,
        difference,
        allowed,
    )
    return False


def head_in_float32(model: Any) -> None:  # noqa: ANN401  (one of many model classes)
    """Keep the head in float32: half precision there would make close scores tie."""

    def widen(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.float() for tensor in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(widen)
