"""What a model is: its identity in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Final,
    Literal,
    Protocol,
    get_args,
    runtime_checkable,
)

from rerank_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from rerank_plugins.core.calibration import Calibrator

Priority = Literal["interactive", "bulk"]


@runtime_checkable
class ModelSpec(Protocol):
    """Describes a model where a name would not say enough, as that of a remote server.

    Frozen and hashable: equal ones share one engine. ``str()`` of it is the model's name.
    """

    @property
    def backend_name(self) -> str:
        """Name of the backend that computes it."""
        ...


def validate_count(
    name: str, count: int | None, absent: str | None = None, *, least: int = 1
) -> int | None:
    """Return a count if it is an integer of at least ``least``.

    Args:
        name: What the setting is called.
        count: Its value.
        absent: What None means, for the message: "for all"; None where it is not allowed.
        least: The smallest that is allowed.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if count is None and absent is not None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        otherwise = "" if absent is None else f", or None {absent}"
        message = f"{name} is {count!r}; it must be an integer of at least {least}{otherwise}."
        raise ConfigurationError(message)
    return count


def validate_top_n(top_n: int | None) -> int | None:
    """Return ``top_n`` if it is None (all) or at least 1; see :func:`validate_count`."""
    return validate_count("top_n", top_n, "for all")


def validate_number(
    name: str,
    value: float | None,
    absent: str | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> float | None:
    """Return a finite number from ``low`` to ``high``; see :func:`validate_count`.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if value is None and absent is not None:
        return None
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        bounds = [f"at least {low:g}"] if math.isfinite(low) else []
        bounds += [f"at most {high:g}"] if math.isfinite(high) else []
        allowed = " ".join(["a finite number", *([" and ".join(bounds)] if bounds else [])])
        otherwise = "" if absent is None else f", or None {absent}"
        message = f"{name} is {value!r}; it must be {allowed}{otherwise}."
        raise ConfigurationError(message)
    return value


def validate_deadline(deadline_ms: float | None) -> float | None:
    """Return a deadline of at least a millisecond; None and infinity are none.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if isinstance(deadline_ms, float) and deadline_ms == math.inf:
        return deadline_ms
    return validate_number("deadline_ms", deadline_ms, "for no deadline", low=1)


def validate_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check that a setting has one of its values.

    Raises:
        ConfigurationError: If it has not.
    """
    if value not in allowed:
        message = f"{name} is {value!r}; allowed are {', '.join(allowed)}."
        raise ConfigurationError(message)


def validate_prompt(name: str, prompt: object) -> str | None:
    """Return a prompt if it is a string, or None for the model's own.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if prompt is None or isinstance(prompt, str):
        return prompt
    message = f"{name} is {prompt!r}; it must be a string, or None for the model's own."
    raise ConfigurationError(message)


def validate_devices(device: object) -> str | tuple[str, ...] | None:
    """Return the name of one device, the names of several, or None for a choice.

    Args:
        device: A name, names with commas between them, a list or tuple of names, or None.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if device is None:
        return None
    names = device.split(",") if isinstance(device, str) else device
    words = []
    if isinstance(names, (list, tuple)):
        words = [name.strip() for name in names if isinstance(name, str)]
    if not isinstance(names, (list, tuple)) or not all(words) or not len(words) == len(names) > 0:
        message = (
            f"device is {device!r}; give a torch device such as 'cpu' or 'cuda:0', a list of "
            "them, or None to choose."
        )
        raise ConfigurationError(message)
    return tuple(words) if len(words) > 1 else words[0]


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


def _validate_megabytes(name: str, value: float, least: int, bound: str) -> None:
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
            model's own reach where that is shorter. None is the model's own maximum length.
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
    settings: ModelSpec | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        if not isinstance(self.model, str) or not self.model.strip():
            message = f'model is {self.model!r}; give "mini", a Hub name or a folder.'
            raise ConfigurationError(message)
        object.__setattr__(self, "device", validate_devices(self.device))
        validate_choice("dtype", self.dtype, get_args(Dtype))
        validate_choice("optimize", self.optimize, get_args(Optimize))
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
                f"{MIN_MAX_LENGTH} tokens (the model's own maximum length is applied on top)."
            )
            raise ConfigurationError(message)

    def _check_caches(self) -> None:
        _validate_megabytes("cache_mb", self.cache_mb, 0, "0 for no cache")
        _validate_megabytes("cache_dir_mb", self.cache_dir_mb, 1, "at least 1")
        if (
            validate_count("cache_entries", self.cache_entries, "for no bound")
            and not self.cache_mb
        ):
            message = (
                f"cache_entries is {self.cache_entries}, and cache_mb is 0, which keeps nothing "
                "in memory. Give cache_mb as well."
            )
            raise ConfigurationError(message)
        folder = self.cache_dir
        if folder is not None and (not isinstance(folder, (str, Path)) or not str(folder).strip()):
            message = f"cache_dir is {folder!r}; it must be a folder, or None for no disk cache."
            raise ConfigurationError(message)


Activation = Literal["sigmoid", "none"]
Overload = Literal["wait", "raise"]
OnError = Literal["raise", "passthrough"]
Fusion = Literal["none", "rrf", "weighted"]
LongDocuments = Literal["truncate", "windows"]


@dataclass(frozen=True)
class RerankConfig:
    """How a ranking is made from scores.

    Attributes:
        top_n: How many documents to return; None returns all.
        score_threshold: Documents below this ``relevance_score`` are left out; a document
            at the threshold stays. None keeps all.
        activation: ``"sigmoid"`` maps logits to 0..1; ``"none"`` leaves them as they are.
        calibrator: Maps raw scores to probabilities, instead of the activation.
        fusion: How the first stage has a say: ``"none"``, ``"rrf"`` or ``"weighted"``.
        fusion_weight: The model's share in a fusion; the rest is the first stage's.
        deadline_ms: Milliseconds after which a ranking is answered with what is scored; None
            and infinity wait for all.
        on_error: If scoring fails, ``"raise"``, or ``"passthrough"`` the input's order.
    """

    top_n: int | None = None
    score_threshold: float | None = None
    activation: Activation = "sigmoid"
    calibrator: Calibrator | None = None
    fusion: Fusion = "none"
    fusion_weight: float = 0.5
    deadline_ms: float | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        validate_top_n(self.top_n)
        validate_number("score_threshold", self.score_threshold, "to keep all")
        validate_choice("activation", self.activation, get_args(Activation))
        validate_choice("fusion", self.fusion, get_args(Fusion))
        validate_number("fusion_weight", self.fusion_weight, low=0, high=1)
        validate_deadline(self.deadline_ms)
        validate_choice("on_error", self.on_error, get_args(OnError))
        if self.calibrator is not None and self.fusion != "none":
            message = (
                f"fusion is {self.fusion!r} and there is a calibrator, but a fused score is no "
                "score of the model, and has no probability. Leave one of them out; "
                "calibrator(raw_scores) gives the probabilities beside a fusion."
            )
            raise ConfigurationError(message)


@dataclass(frozen=True)
class ScoringConfig:
    """How a model scores a request.

    Attributes:
        max_length: Most tokens a pair may have; None is the model's maximum length.
        long_documents: ``"truncate"`` reads the beginning of a document beyond the maximum length,
            ``"windows"`` all of it, in windows.
        window_overlap: Tokens that a window shares with the one before it.
        max_windows: Most windows of a document; of a longer one so many are read that lie
            evenly from its first to its last. None reads all.
        best_windows: A document's score is the mean of its best so many windows; 1 is the
            best one alone (MaxP, Dai and Callan, 2019).
        query_prompt: Put before the query; None is the model's own.
        document_prompt: Put before every document and window; None is the model's own.
        priority: ``"interactive"``, or ``"bulk"`` to stand behind the former.
        overload: What to do while the engine's queue is full: ``"wait"``, or ``"raise"``.
    """

    max_length: int | None = 512
    long_documents: LongDocuments = "truncate"
    window_overlap: int = 64
    max_windows: int | None = 32
    best_windows: int = 1
    query_prompt: str | None = None
    document_prompt: str | None = None
    priority: Priority = "interactive"
    overload: Overload = "wait"

    def __post_init__(self) -> None:
        """Check every field; ``max_length`` is checked with the model's configuration.

        Raises:
            ConfigurationError: If one is out of range.
        """
        validate_choice("long_documents", self.long_documents, get_args(LongDocuments))
        validate_count("window_overlap", self.window_overlap, least=0)
        validate_count("max_windows", self.max_windows, "for all")
        validate_count("best_windows", self.best_windows)
        validate_prompt("query_prompt", self.query_prompt)
        validate_prompt("document_prompt", self.document_prompt)
        validate_choice("priority", self.priority, get_args(Priority))
        validate_choice("overload", self.overload, get_args(Overload))
