"""Choice of devices and data types, and out-of-memory errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rerank_plugins.backends.hub import find_folder
from rerank_plugins.config import MINI, Dtype, ModelConfig
from rerank_plugins.errors import ConfigurationError, OutOfMemoryError


def resolve_device(device: str | None) -> str:
    """Return the canonical name of an available device; None chooses the best one.

    Raises:
        ConfigurationError: If the name is not a device, or the device is not available.
    """
    if device is None:
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        message = f"device is {device!r}; use a torch device such as 'cpu', 'cuda:0' or 'mps'."
        raise ConfigurationError(message) from error
    if parsed.type == "cpu":
        return "cpu"
    if parsed.type == "cuda":
        index = parsed.index or 0
        if index >= torch.cuda.device_count():
            message = (
                f"device is {device!r}, but torch can use {torch.cuda.device_count()} CUDA devices "
                "here. Use another device, 'cpu', or None to choose one."
            )
            raise ConfigurationError(message)
        return f"cuda:{index}"
    if parsed.type == "mps" and torch.backends.mps.is_available():
        return "mps"
    if parsed.type in {"mps", "meta"} or not _is_usable(parsed):
        message = f"device is {device!r}, but torch cannot compute on it here. Use 'cpu' or None."
        raise ConfigurationError(message)
    return str(parsed)


def _is_usable(device: torch.device) -> bool:
    """Return whether torch can use a device of a less common kind (xpu, hpu, ...)."""
    try:
        torch.zeros(1, device=device).cpu()
    except Exception:  # noqa: BLE001  (each kind raises different exceptions)
        return False
    return True


def fast_bfloat16_on_cpu() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; without, it is far slower."""
    return bool(
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
    )


def resolve_dtype(dtype: Dtype, device: str) -> Dtype:
    """Return the data type for a device; ``"auto"`` chooses a fast one.

    Raises:
        ConfigurationError: If the data type is int8, which torch does not compute here.
    """
    if dtype == "int8":
        message = (
            "dtype is 'int8', which only backend 'openvino' supports, on a CPU. Use that backend, "
            "or 'float32', 'float16', 'bfloat16' or 'auto'."
        )
        raise ConfigurationError(message)
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "float16"
    if device == "cpu" and fast_bfloat16_on_cpu():
        return "bfloat16"
    return "float32"


def resolve_local(config: ModelConfig) -> ModelConfig:
    """Choose devices and data type of a local model, and make its folder absolute.

    Several devices use one data type, so that scores do not depend on the device.

    Raises:
        ConfigurationError: If a device is not available.
    """
    device = config.device
    names = [device] if device is None or isinstance(device, str) else device
    devices = tuple(resolve_device(name) for name in names)
    dtypes = {resolve_dtype(config.dtype, name) for name in devices}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    folder = None if config.model == MINI else find_folder(config.model)
    model = config.model if folder is None else str(folder)
    resolved_device = devices if len(devices) > 1 else devices[0]
    return config.replace(model=model, device=resolved_device, dtype=dtype)


@contextmanager
def mapped_out_of_memory() -> Iterator[None]:
    """Map torch's out-of-memory errors, and no others, to :class:`OutOfMemoryError`.

    Raises:
        OutOfMemoryError: If the device, or the allocator of a CPU, is out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        # torch has no exception class for the CPU's allocator.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemoryError(str(error)) from error
