"""What a model is: its identity in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Literal, get_args

from rerank_plugins.core.checks import check_choice, check_count, check_devices
from rerank_plugins.core.loading import ModelSettings
from rerank_plugins.errors import ConfigurationError

Dtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
Optimize = Literal["none", "compile", "reduce-overhead"]


class Unset(Enum):
    """The type of :data:`UNSET`, for settings where None means something."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""Not given: use the object's own setting."""

MINI: Final = "mini"
"""The name of the embedded models, which need no network."""

MIN_MAX_LENGTH: Final = 16
"""Room for the special tokens, a few words of the query and a few of the document."""


def _check_megabytes(name: str, value: float, least: int, bound: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value < 2**20:
        message = f"{name} is {value!r}; it must be a number of megabytes, {bound}."
        raise ConfigurationError(message)


@dataclass(frozen=True)
class ModelConfig:
    """The identity of a model in this process: equal configurations share one engine.

    Attributes:
        model: ``"mini"`` (embedded), a Hugging Face Hub name or a folder.
        backend: ``"auto"`` or the name of a backend.
        device: A torch device such as ``"cuda:0"`` or ``"cpu"``; None chooses the best here.
            Several (a sequence, or names with commas between them) have a replica each.
        dtype: Data type of the encoder's arithmetic; ``"auto"`` chooses by the device, and
            never ``"int8"``, which changes scores a little and runs on a CPU by OpenVINO.
        optimize: ``"compile"`` has torch fuse what stands between matrix products; the first
            batches then take a minute or more. ``"reduce-overhead"`` also records the compiled
            parts as CUDA graphs, for small batches on a CUDA device. Both for encoders of
            BERT's families.
        max_length: Most tokens an input may have, special tokens included; lowered to the
            model's own reach where that is shorter. None is the model's own reach.
        revision: Branch, tag or commit on the hub.
        cache_folder: Where downloads are kept; None is Hugging Face's own place.
        local_files_only: Whether to use only what is already on this machine.
        trust_remote_code: Whether to run Python code that comes with the model.
        idle_unload_s: Seconds without work after which the model's memory is given back,
            until the next request; None keeps it. Not part of the identity: the last who
            asks for a model with a number sets it.
        cache_mb: Megabytes for results computed before, texts included; 0 keeps none. Not
            part of the identity either: the most that anybody asks for.
        cache_entries: Most results in those megabytes; None is as many as find room.
        cache_dir: Folder for results that outlast the process and that processes share;
            None keeps none there. An engine uses one folder: who asks for another gets an
            error, who asks for none uses the one that is there.
        cache_dir_mb: Megabytes of that folder; the oldest results go beyond them.
        settings: What describes the model beyond its name, as that of a remote server.
    """

    model: str = MINI
    backend: str = "auto"
    device: str | Sequence[str] | None = None
    dtype: Dtype = "auto"
    optimize: Optimize = "none"
    max_length: int | None = 512
    revision: str | None = None
    cache_folder: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    idle_unload_s: float | None = field(default=None, compare=False)
    cache_mb: float = field(default=0, compare=False)
    cache_entries: int | None = field(default=None, compare=False)
    cache_dir: str | Path | None = field(default=None, compare=False)
    cache_dir_mb: float = field(default=1024, compare=False)
    settings: ModelSettings | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        if not isinstance(self.model, str) or not self.model.strip():
            message = f'model is {self.model!r}; give "mini", a Hub name or a folder.'
            raise ConfigurationError(message)
        object.__setattr__(self, "device", check_devices(self.device))
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("optimize", self.optimize, get_args(Optimize))
        idle = self.idle_unload_s
        if idle is not None and not (isinstance(idle, (int, float)) and idle > 0):
            message = f"idle_unload_s is {idle!r}; it must be a number above 0, or None for never."
            raise ConfigurationError(message)
        self._check_caches()
        length = self.max_length
        if length is None:
            return
        if isinstance(length, bool) or not isinstance(length, int) or length < MIN_MAX_LENGTH:
            message = (
                f"max_length is {length!r}; it must be an integer of at least "
                f"{MIN_MAX_LENGTH} tokens (the model's own reach is applied on top)."
            )
            raise ConfigurationError(message)

    def _check_caches(self) -> None:
        _check_megabytes("cache_mb", self.cache_mb, 0, "0 for no cache")
        _check_megabytes("cache_dir_mb", self.cache_dir_mb, 1, "at least 1")
        if check_count("cache_entries", self.cache_entries, "for no bound") and not self.cache_mb:
            message = (
                f"cache_entries is {self.cache_entries}, and cache_mb is 0, which keeps nothing "
                "in memory. Give cache_mb as well."
            )
            raise ConfigurationError(message)
        folder = self.cache_dir
        if folder is not None and (not isinstance(folder, (str, Path)) or not str(folder).strip()):
            message = f"cache_dir is {folder!r}; it must be a folder, or None for no disk cache."
            raise ConfigurationError(message)
