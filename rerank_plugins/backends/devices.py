"""Devices and data types, chosen at run time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rerank_plugins.backends.hub import find_folder
from rerank_plugins.config import MINI, Dtype, ModelConfig
from rerank_plugins.errors import ConfigurationError, OutOfMemoryError


def resolve_device(device: str | None) -> str:
    """Return the canonical name of a device that is there, the best one for None.

    Raises:
        ConfigurationError: If the name is not a device or the device is not on this machine.
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
                f"device is {device!r}, and this machine has {torch.cuda.device_count()} CUDA "
                "devices that torch can use. Use another, 'cpu', or None to choose."
            )
            raise ConfigurationError(message)
        return f"cuda:{index}"
    if parsed.type == "mps" and torch.backends.mps.is_available():
        return "mps"
    if parsed.type in {"mps", "meta"} or not _computes(parsed):
        message = f"device is {device!r}, and torch cannot compute on it here. Use 'cpu' or None."
        raise ConfigurationError(message)
    return str(parsed)


def _computes(device: torch.device) -> bool:
    """Return whether torch can put numbers on a device of a rarer kind (xpu, hpu, ...)."""
    try:
        torch.zeros(1, device=device).cpu()
    except Exception:  # noqa: BLE001  (each kind fails in its own way where it is missing)
        return False
    return True


def fast_bfloat16_on_cpu() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware (elsewhere it is far slower)."""
    return bool(
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
    )


def resolve_dtype(dtype: Dtype, device: str) -> Dtype:
    """Return a data type for the device: what was asked for, or for ``"auto"`` a fast one.

    Raises:
        ConfigurationError: If it is int8, which is not torch's to compute here.
    """
    if dtype == "int8":
        message = (
            "dtype is 'int8', which backend 'openvino' computes on a CPU and no other does. Use "
            "that backend, or 'float32', 'float16', 'bfloat16' or 'auto'."
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
    """Choose devices and data type of a model that runs here, and make a folder absolute.

    Several devices compute in one data type, so that it does not matter which computes.

    Raises:
        ConfigurationError: If the device is not on this machine.
    """
    given = config.device
    names = [given] if given is None or isinstance(given, str) else given
    devices = tuple(resolve_device(name) for name in names)
    kinds = {resolve_dtype(config.dtype, name) for name in devices}
    dtype = kinds.pop() if len(kinds) == 1 else "float32"
    device = devices if len(devices) > 1 else devices[0]
    folder = None if config.model == MINI else find_folder(config.model)
    model = config.model if folder is None else str(folder)
    return config.replace(model=model, device=device, dtype=dtype)


@contextmanager
def mapped_out_of_memory() -> Iterator[None]:
    """Map a real out-of-memory error, and nothing else, to ours.

    Raises:
        OutOfMemoryError: If the device, or on a CPU the allocator, has no memory left.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        # The CPU's allocator has no exception class of its own.
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemoryError(str(error)) from error
