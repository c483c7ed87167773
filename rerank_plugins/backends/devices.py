"""Devices and data types of local models, and replicas of a model on several devices."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.backends.hub import find_folder
from rerank_plugins.config import MINI, Dtype, ModelConfig
from rerank_plugins.engine.backend import Role, TokenizedItem
from rerank_plugins.engine.request_queue import PREPARE_ITEMS
from rerank_plugins.errors import (
    ConfigurationError,
    EngineClosedError,
    OutOfMemoryError,
    RerankError,
)
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale

_log = logging.getLogger(__name__)

_SHORT_ITEM_TOKENS: Final = 32
"""A request that fits one batch is prepared at once if its items have at least this many tokens, so
that it becomes one batch on one device."""

CROSS_ENCODER_TOKENS: Final = {"cpu": 2_048, "mps": 8_192, "cuda": 16_384}

BI_ENCODER_TOKENS: Final = {"cpu": 4_096, "mps": 16_384, "cuda": 65_536}
"""Tokens per batch, by kind of device."""


def resolve_device(device: str | None) -> str:
    """Return the canonical name of an available device; None chooses the best one."""
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
    """Return the data type for a device; ``"auto"`` chooses a fast one."""
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
    """Map torch's out-of-memory errors, and no others, to :class:`OutOfMemoryError`."""
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


class LocalModel:
    """Base of the backends that compute a model with torch on one device."""

    resolve = staticmethod(resolve_local)
    device: torch.device
    batch_tokens: int
    identity: ModelIdentity
    _model: Any = None
    """None after :meth:`close`."""

    def _set_up(
        self,
        config: ModelConfig,
        max_seq_length: int,
        fingerprint: str,
        batch_tokens: Mapping[str, int] = CROSS_ENCODER_TOKENS,
    ) -> None:
        """Set every attribute except the model."""
        self.device = torch.device(str(config.device))
        self.batch_tokens = batch_tokens.get(self.device.type, batch_tokens["cpu"])
        self.identity = ModelIdentity(
            config.model, config.revision, config.backend, config.dtype, max_seq_length, fingerprint
        )

    @property
    def model(self) -> Any:  # noqa: ANN401  (one of many model classes)
        """The loaded model.

        Raises:
            EngineClosedError: If the backend was closed.
        """
        if self._model is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        return self._model

    def close(self) -> None:
        """Release the model's memory."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Replicas:
    """Runs each batch on an idle device.

    Attributes:
        workers: Number of devices, which is the number of batches that may run at once.
        batch_tokens: Number of tokens per batch that every device can hold.
        is_padded: Whether any replica pads its batches.
        prepare_items: Number of items of a request that are prepared at once.
    """

    def __init__(self, make: Callable[[ModelConfig], Any], config: ModelConfig) -> None:
        """Load the model on each device of a resolved configuration."""
        self._devices = tuple(config.device or ())
        self._replicas: list[Any] = []
        try:
            for device in self._devices:
                self._replicas.append(make(config.replace(device=device)))
        except BaseException:
            self.close()
            raise
        replicas = self._replicas
        self._first: Any = replicas[0]
        self.workers = len(replicas)
        self.batch_tokens = min(replica.batch_tokens for replica in replicas)
        self.is_padded = any(replica.is_padded for replica in replicas)
        self.prepare_items = max(PREPARE_ITEMS, self.batch_tokens // _SHORT_ITEM_TOKENS)
        self._working = set(range(len(replicas)))
        self._idle = list(self._working)
        self._condition = threading.Condition()

    @property
    def identity(self) -> ModelIdentity:
        """Identity of every replica."""
        return cast("ModelIdentity", self._first.identity)

    def prepare(self, items: Sequence[Any], max_length: int | None = None) -> list[TokenizedItem]:
        """Tokenize and truncate; thread-safe."""
        return cast("list[TokenizedItem]", self._first.prepare(items, max_length))

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Compute one batch on an idle device; wait for one if all are busy."""
        number = self._acquire()
        assert number is not None  # noqa: S101  (the last device is never removed)
        try:
            return self._run(number, batch)
        except (RerankError, MemoryError):
            raise
        except Exception as error:
            other = self._acquire(excluded=number)
            if other is None:
                raise
            rows = self._run(other, batch)
            self._remove(number, error)
            return rows

    def close(self) -> None:
        """Release the memory of all replicas."""
        for replica in self._replicas:
            replica.close()

    def _run(self, number: int, batch: Sequence[TokenizedItem]) -> FloatArray:
        try:
            return cast("FloatArray", self._replicas[number].run(batch))
        finally:
            with self._condition:
                self._idle.append(number)
                self._condition.notify_all()

    def _acquire(self, excluded: int | None = None) -> int | None:
        """Wait for an idle device other than ``excluded``; None if there is no other."""
        with self._condition:
            while self._working - {excluded}:
                for number in self._idle:
                    if number in self._working and number != excluded:
                        self._idle.remove(number)
                        return number
                self._condition.wait()
        return None

    def _remove(self, number: int, error: Exception) -> None:
        with self._condition:
            if number not in self._working or len(self._working) == 1:
                return
            self._working.remove(number)
            remaining = ", ".join(self._devices[other] for other in sorted(self._working))
            self._condition.notify_all()
        _log.error(
            "%r: %s failed (%s: %s) on a batch that works on another device; continuing with %s.",
            self.identity.model,
            self._devices[number],
            type(error).__name__,
            error,
            remaining,
        )


class CrossEncoderReplicas(Replicas):
    """Replicas of a cross-encoder."""

    @property
    def scale(self) -> ScoreScale:
        """Meaning of the raw scores."""
        return cast("ScoreScale", self._first.scale)

    @property
    def prompts(self) -> Mapping[Role, str]:
        """Prefixes of queries and documents from the model's configuration."""
        return getattr(self._first, "prompts", {})

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return the number of document tokens that fit together with a query, at least 1."""
        return cast("int", self._first.room(query, max_length))

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the character span ``[start, end)`` of each token, one array per text."""
        return cast("list[NDArray[np.int64]]", self._first.spans(texts))


class BiEncoderReplicas(Replicas):
    """Replicas of a bi-encoder."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return cast("int", self._first.dimension)
