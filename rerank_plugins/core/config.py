"""What a model is: its identity in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, get_args

from rerank_plugins.core.checks import check_choice
from rerank_plugins.core.loading import ModelSettings
from rerank_plugins.errors import ConfigurationError

Dtype = Literal["auto", "float32", "float16", "bfloat16"]


class Unset(Enum):
    """The type of :data:`UNSET`, for settings where None means something."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""Not given: use the object's own setting."""

MINI: Final = "mini"
"""The name of the embedded models, which need no network."""

MIN_MAX_LENGTH: Final = 16
"""Room for the special tokens, a few words of the query and a few of the document."""


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
        settings: What describes the model beyond its name, as that of a remote server.
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
    settings: ModelSettings | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        if not isinstance(self.model, str) or not self.model.strip():
            message = f'model is {self.model!r}; give "mini", a Hub name or a folder.'
            raise ConfigurationError(message)
        check_choice("dtype", self.dtype, get_args(Dtype))
        idle = self.idle_unload_s
        if idle is not None and not (isinstance(idle, (int, float)) and idle > 0):
            message = f"idle_unload_s is {idle!r}; it must be a number above 0, or None for never."
            raise ConfigurationError(message)
        cache = self.cache_mb
        if isinstance(cache, bool) or not isinstance(cache, (int, float)) or not 0 <= cache < 2**20:
            message = f"cache_mb is {cache!r}; it must be a number of megabytes, 0 for no cache."
            raise ConfigurationError(message)
        length = self.max_length
        if length is None:
            return
        if isinstance(length, bool) or not isinstance(length, int) or length < MIN_MAX_LENGTH:
            message = (
                f"max_length is {length!r}; it must be an integer of at least "
                f"{MIN_MAX_LENGTH} tokens (the model's own reach is applied on top)."
            )
            raise ConfigurationError(message)
