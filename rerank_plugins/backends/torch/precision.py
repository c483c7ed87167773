"""Data types of torch models: float16 with a fallback to bfloat16, and a float32 head."""

from __future__ import annotations

import logging
from typing import Any, Final

import torch

from rerank_plugins.backends.devices import resolve_local
from rerank_plugins.config import Dtype, ModelConfig

_log = logging.getLogger(__name__)

_overflowed: Final[set[tuple[str, str | None]]] = set()
"""Model and revision of the models that overflowed in float16."""


def resolve_torch(config: ModelConfig) -> ModelConfig:
    """Choose device and data type; see :func:`~rerank_plugins.backends.devices.resolve_local`.

    ``"auto"`` is kept where it means float16, because the model may fall back to bfloat16. With an
    explicit ``"float16"`` there is no fallback, so such a configuration never shares its model
    with ``"auto"``.
    """
    resolved = resolve_local(config)
    may_fall_back = config.dtype == "auto" and resolved.dtype == "float16"
    return resolved.replace(dtype="auto") if may_fall_back else resolved


def current_dtype(config: ModelConfig) -> Dtype:
    """Return the data type in which the model of a resolved configuration is computed now."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if (config.model, config.revision) in _overflowed else "float16"


def fall_back_to_bfloat16(config: ModelConfig) -> None:
    """Compute a model in bfloat16 from now on, in all replicas and after it is loaded again."""
    key = (config.model, config.revision)
    if key not in _overflowed:
        _overflowed.add(key)
        _log.warning(
            "%r overflows in float16: it is computed in bfloat16 from now on. Set dtype to choose "
            "a data type yourself.",
            config.model,
        )


def keep_head_in_float32(model: Any) -> None:  # noqa: ANN401  (one of many model classes)
    """Compute the head in float32: in half precision, close scores would become equal."""

    def widen(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.float() for tensor in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(widen)
