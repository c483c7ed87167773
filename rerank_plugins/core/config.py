"""What a model is (:class:`ModelConfig`) and how rankings are made (:class:`RerankConfig`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Literal, get_args

from rerank_plugins.core.batching.jobs import Priority
from rerank_plugins.errors import ConfigurationError

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Activation = Literal["sigmoid", "none"]
Overload = Literal["wait", "raise"]


class Unset(Enum):
    """The type of :data:`UNSET`, for settings where None means something."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""Not given: use the object's own setting."""

MINI: Final = "mini"
"""The name of the embedded models, which need no network."""

MIN_MAX_LENGTH: Final = 16
"""Room for the special tokens, a few words of the query and a few of the document."""


def check_count(name: str, count: int | None, absent: str) -> int | None:
    """Return a count if it is None or at least 1.

    Args:
        name: What the setting is called.
        count: Its value.
        absent: What None means, for the message: "for all".

    Raises:
        ConfigurationError: If it is anything else.
    """
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        message = f"{name} is {count!r}; it must be an integer of at least 1, or None {absent}."
        raise ConfigurationError(message)
    return count


def check_top_n(top_n: int | None) -> int | None:
    """Return ``top_n`` if it is None (all) or at least 1; see :func:`check_count`."""
    return check_count("top_n", top_n, "for all")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        message = f"{name} is {value!r}; allowed are {', '.join(allowed)}."
        raise ConfigurationError(message)


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
        dtype: Data type of the encoder's arithmetic; ``"auto"`` chooses by the device.
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
    """

    model: str = MINI
    backend: str = "auto"
    device: str | None = None
    dtype: Dtype = "auto"
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

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        if not isinstance(self.model, str) or not self.model.strip():
            message = f'model is {self.model!r}; give "mini", a Hub name or a folder.'
            raise ConfigurationError(message)
        _check_choice("dtype", self.dtype, get_args(Dtype))
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


@dataclass(frozen=True)
class RerankConfig:
    """How a ranking is made from scores.

    Attributes:
        top_n: How many documents to return; None returns all.
        score_threshold: Documents below this ``relevance_score`` are left out; a document
            at the threshold stays. None keeps all.
        activation: ``"sigmoid"`` maps logits to 0..1; ``"none"`` leaves them as they are.
        priority: ``"interactive"``, or ``"bulk"`` to stand behind the former.
        overload: What to do while the engine's queue is full: ``"wait"``, or ``"raise"``.
    """

    top_n: int | None = None
    score_threshold: float | None = None
    activation: Activation = "sigmoid"
    priority: Priority = "interactive"
    overload: Overload = "wait"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        check_top_n(self.top_n)
        _check_choice("activation", self.activation, get_args(Activation))
        _check_choice("priority", self.priority, get_args(Priority))
        _check_choice("overload", self.overload, get_args(Overload))
        threshold = self.score_threshold
        if threshold is None:
            return
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            message = f"score_threshold is {threshold!r}; it must be a number or None."
            raise ConfigurationError(message)
        if not math.isfinite(threshold):
            message = f"score_threshold is {threshold!r}; it must be finite, or None to keep all."
            raise ConfigurationError(message)
