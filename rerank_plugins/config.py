"""Settings: each is declared once, with its default, its validation and its description.

Every public object derives from these models: :class:`~rerank_plugins.Reranker` and
:class:`~rerank_plugins.BiEncoder`, the adapters of both frameworks, the server, Ray and the
command line. Settings that belong together are value groups: :class:`Windows`, :class:`Cache`,
:class:`Fusion` and :class:`Dedup`.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from inspect import Parameter, Signature, cleandoc
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    Protocol,
    get_args,
    runtime_checkable,
)

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from typing_extensions import Self

from rerank_plugins.errors import ConfigurationError

MINI: Final = "mini"
"""The name of the embedded models, which need no network."""

MIN_MAX_LENGTH: Final = 16
"""Room for the special tokens, a few words of the query and a few of the document."""

Dtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
Optimize = Literal["none", "compile", "reduce-overhead"]
Priority = Literal["interactive", "bulk"]
WhenFull = Literal["wait", "raise"]
OnError = Literal["raise", "passthrough"]
FusionMethod = Literal["rrf", "weighted"]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

_ROLES: Final = ("query", "document")


class Unset(Enum):
    """The type of :data:`UNSET`, for parameters where None is a value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""The parameter was not given: the object's own setting applies."""


@runtime_checkable
class ModelSpec(Protocol):
    """A description of a model that a name alone does not describe, such as a remote server.

    It is frozen and hashable: equal specs share one engine. ``str()`` of it is the model's name.
    """

    @property
    def backend_name(self) -> str:
        """Name of the backend that computes it."""
        ...


@runtime_checkable
class ScoreCalibrator(Protocol):
    """A function from raw scores to probabilities, such as a fitted ``Calibrator``."""

    def __call__(self, raw_scores: Any, /) -> Any:  # noqa: ANN401  (arrays; numpy loads later)
        """Return the probability of relevance of each raw score."""
        ...

    def validate_model(self, model: Any) -> None:  # noqa: ANN401  (a ModelIdentity)
        """Refuse the scores of another model."""
        ...


# --- Validation of single values -----------------------------------------------------------------


def validate_count(
    name: str, count: int | None, absent: str | None = None, *, least: int = 1
) -> int | None:
    """Return a count if it is an integer of at least ``least``.

    Args:
        name: Name of the setting.
        count: Its value.
        absent: Meaning of None, for the message, as in "for all"; None where None is not allowed.
        least: The smallest allowed value.

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
    """Return a deadline of at least a millisecond; None and infinity mean no deadline.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if isinstance(deadline_ms, float) and deadline_ms == math.inf:
        return deadline_ms
    return validate_number("deadline_ms", deadline_ms, "for no deadline", low=1)


def validate_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a setting that has none of its allowed values.

    Raises:
        ConfigurationError: If it has none of them.
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
    """Return the name of one device, the names of several, or None for an automatic choice.

    Args:
        device: A name, names separated by commas, a list or tuple of names, or None.

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


def validate_max_length(max_length: object) -> int | None:
    """Return a maximum length in tokens if it is long enough for a query and a document.

    Raises:
        ConfigurationError: If it is anything else; None is the model's own maximum length.
    """
    if max_length is None:
        return None
    if (
        isinstance(max_length, bool)
        or not isinstance(max_length, int)
        or max_length < MIN_MAX_LENGTH
    ):
        message = (
            f"max_length is {max_length!r}; it must be an integer of at least {MIN_MAX_LENGTH} "
            "tokens (the model's own maximum length also applies), or None for the latter alone."
        )
        raise ConfigurationError(message)
    return max_length


# --- Validators of fields ------------------------------------------------------------------------


def _count(absent: str | None = None, *, least: int = 1) -> BeforeValidator:
    def validate(value: Any, info: ValidationInfo) -> int | None:  # noqa: ANN401
        return validate_count(str(info.field_name), value, absent, least=least)

    return BeforeValidator(validate)


def _number(absent: str | None = None, **bounds: float) -> BeforeValidator:
    def validate(value: Any, info: ValidationInfo) -> float | None:  # noqa: ANN401
        return validate_number(str(info.field_name), value, absent, **bounds)

    return BeforeValidator(validate)


def _choice(literal: Any) -> BeforeValidator:  # noqa: ANN401  (a Literal)
    def validate(value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        validate_choice(str(info.field_name), value, get_args(literal))
        return value

    return BeforeValidator(validate)


def _megabytes(least: int, bound: str) -> BeforeValidator:
    def validate(value: Any, info: ValidationInfo) -> float:  # noqa: ANN401
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not least <= value < 2**20:
            message = f"{info.field_name} is {value!r}; it must be a number of megabytes, {bound}."
            raise ConfigurationError(message)
        return float(value) if isinstance(value, float) else value

    return BeforeValidator(validate)


def _validate_idle(value: Any) -> float | None:  # noqa: ANN401
    if value is not None and not (
        isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    ):
        message = f"idle_unload_s is {value!r}; it must be a number above 0, or None for never."
        raise ConfigurationError(message)
    return value


def _validate_folder(value: Any, info: ValidationInfo) -> str | None:  # noqa: ANN401
    if value is not None and (not isinstance(value, (str, Path)) or not str(value).strip()):
        message = f"{info.field_name} is {value!r}; it must be a folder, or None."
        raise ConfigurationError(message)
    return None if value is None else str(value)


def _validate_prompts(value: Any) -> dict[str, str] | None:  # noqa: ANN401
    if value is None:
        return None
    if not isinstance(value, Mapping):
        message = (
            f'prompts is {value!r}; give {{"query": ..., "document": ...}}, or None for the '
            "model's own prompts."
        )
        raise ConfigurationError(message)
    for role, prompt in value.items():
        validate_choice("a role in prompts", role, _ROLES)
        validate_prompt(f'prompts["{role}"]', prompt)
    return {role: prompt for role, prompt in value.items() if prompt is not None}


def _path_as_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _validate_model(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str) and not value.strip():
        message = f'model is {value!r}; give "mini", a Hub name or a folder.'
        raise ConfigurationError(message)
    return _path_as_text(value)


def _group(
    kind: Callable[[], type[ValueGroup]], *strings: str, number: str | None = None
) -> BeforeValidator:
    """Validate a value group, or one of the plain values that stand for it.

    Args:
        kind: Returns the group's class.
        strings: Plain strings that are allowed in its place.
        number: The field that a plain number stands for.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        cls = kind()
        if value is None or isinstance(value, cls) or value in strings:
            return value
        if isinstance(value, Mapping):
            return cls(**value)
        if number is not None and isinstance(value, (int, float)):
            return cls(**{number: value})
        plain = [repr(text) for text in strings]
        plain += [] if number is None else [f"a {number}"]
        allowed = ", ".join([*plain, f"{cls.__name__}(...)"])
        message = f"{info.field_name} is {value!r}; allowed are {allowed}."
        raise ConfigurationError(message)

    return BeforeValidator(validate)


# --- Models --------------------------------------------------------------------------------------


class Settings(BaseModel):
    """A model whose errors are :class:`~rerank_plugins.errors.ConfigurationError`."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", frozen=True, protected_namespaces=()
    )

    if not TYPE_CHECKING:  # Static tools derive the signature from the fields.

        def __init__(self, *values: Any, **named: Any) -> None:  # noqa: ANN401
            """Validate the settings; positional values are those of the first fields."""
            names = [
                name for name, field in type(self).model_fields.items() if field.kw_only is False
            ]
            if len(values) > len(names):
                message = (
                    f"{type(self).__name__} takes {len(names)} positional values and got "
                    f"{len(values)}; name the others."
                )
                raise TypeError(message)
            positional = dict(zip(names, values, strict=False))
            twice = positional.keys() & named.keys()
            if twice:
                message = f"{type(self).__name__} got {', '.join(sorted(twice))} twice."
                raise TypeError(message)
            try:
                super().__init__(**positional, **named)
            except ValidationError as error:
                raise _configuration_error(error, type(self)) from error

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401
        """Show the fields in the signature and in the docstring, for ``help()``."""
        super().__pydantic_init_subclass__(**options)
        parameters = []
        lines = ["", "", "Args:"]
        for name, field in cls.model_fields.items():
            positional = field.kw_only is False
            kind = Parameter.POSITIONAL_OR_KEYWORD if positional else Parameter.KEYWORD_ONLY
            parameters.append(
                Parameter(name, kind, default=field.default, annotation=field.annotation)
            )
            lines.append(f"    {name}: {field.description or 'Part of the identity.'}")
        parameters.sort(key=lambda parameter: parameter.kind)
        cls.__signature__ = Signature(parameters)
        cls.__doc__ = cleandoc(cls.__doc__ or "") + "\n".join(lines)

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401
        """Return a copy with other values, validated like new ones."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**values | changes)

    def __str__(self) -> str:
        """Return the same as ``repr()``."""
        return repr(self)

    def __repr_args__(self) -> Any:  # noqa: ANN401  (pydantic's own type)
        """Show the settings that differ from their defaults."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.repr and (field.is_required() or value != field.default):
                yield name, value


def _configuration_error(error: ValidationError, cls: type[BaseModel]) -> ConfigurationError:
    """Return the error of a setting as ours: its value, what is allowed, and the next step."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigurationError):
        return cause
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, cls.model_fields, 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else "."
        return ConfigurationError(f"{cls.__name__} has no setting {name!r}{hint}")
    if first["type"] == "missing":
        return ConfigurationError(f"{cls.__name__} needs {name}.")
    reason = first["msg"].replace("Input should", "it must", 1)
    return ConfigurationError(f"{name} is {first['input']!r}; {reason}.")


class ValueGroup(Settings):
    """Settings that belong together and are passed as one value."""


class Windows(ValueGroup):
    """How a long document is split into windows that the model reads in full.

    Example:
        >>> from rerank_plugins import Reranker, Windows
        >>> Reranker(long_documents=Windows(overlap=32, top_k=2)).long_documents
        Windows(overlap=32, top_k=2)
    """

    overlap: Annotated[int, _count(least=0)] = Field(
        default=64, description="Tokens that a window shares with the window before it."
    )
    max_windows: Annotated[int | None, _count("for all")] = Field(
        default=32,
        description=(
            "Maximum number of windows per document; more are subsampled evenly from the first "
            "to the last. None scores all."
        ),
    )
    top_k: Annotated[int, _count()] = Field(
        default=1,
        description=(
            "The document's score is the mean of its top_k windows; 1 is the best window alone "
            "(MaxP, Dai and Callan, 2019)."
        ),
    )


class Cache(ValueGroup):
    """Where computed scores or embeddings are kept for later requests.

    Example:
        >>> from rerank_plugins import Cache, Reranker
        >>> Reranker(cache=Cache(memory_mb=64)).cache
        Cache(memory_mb=64.0)
    """

    memory_mb: Annotated[float, _megabytes(0, "0 for no cache in memory")] = Field(
        default=0, description="Megabytes of memory, texts included; 0 keeps nothing in memory."
    )
    max_entries: Annotated[int | None, _count("for no bound")] = Field(
        default=None, description="Maximum number of results in memory; None sets no bound."
    )
    folder: Annotated[str | Path | None, BeforeValidator(_validate_folder)] = Field(
        default=None,
        description=(
            "Folder of results that outlast the process and that processes share; None keeps "
            "nothing on disk. An engine uses one folder."
        ),
    )
    folder_mb: Annotated[float, _megabytes(1, "at least 1")] = Field(
        default=1024, description="Megabytes of that folder; the oldest results are evicted first."
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Refuse a bound on the entries of a memory cache that is off."""
        super().model_post_init(context)
        if self.max_entries is not None and not self.memory_mb:
            message = (
                f"max_entries is {self.max_entries}, and memory_mb is 0, which keeps nothing in "
                "memory. Give memory_mb as well."
            )
            raise ConfigurationError(message)


class Fusion(ValueGroup):
    """How model scores and retrieval scores are combined.

    Example:
        >>> from rerank_plugins import Fusion, Reranker
        >>> Reranker(fusion=Fusion("weighted", 0.4)).fusion
        Fusion(method='weighted', weight=0.4)
    """

    method: Annotated[FusionMethod, _choice(FusionMethod)] = Field(
        default="rrf",
        kw_only=False,
        description='"rrf" (reciprocal rank fusion) or "weighted" (mean of min-max scaled scores).',
    )
    weight: Annotated[float, _number(low=0, high=1)] = Field(
        default=0.5,
        kw_only=False,
        description="Weight of the model, 0 to 1; retrieval has the rest.",
    )


class Dedup(ValueGroup):
    """When a document is left out because it nearly repeats a better one.

    Example:
        >>> from rerank_plugins import Dedup, Reranker
        >>> Reranker(dedup=0.9).dedup
        Dedup(threshold=0.9)
    """

    threshold: Annotated[float, _number(low=0, high=1)] = Field(
        default=0.95,
        kw_only=False,
        description="Cosine of two embeddings from which the lower-ranked document is left out.",
    )
    model: Annotated[Any, BeforeValidator(_path_as_text)] = Field(
        default=MINI, description="The bi-encoder that embeds the documents, or its name."
    )


def _validate_activation(value: Any) -> Any:  # noqa: ANN401
    value = _path_as_text(value)
    if value in ("sigmoid", "none") or isinstance(value, ScoreCalibrator):
        return value
    if isinstance(value, str) and (value.endswith(".json") or os.path.isfile(value)):
        return value
    message = (
        f"activation is {value!r}; allowed are sigmoid, none, a Calibrator, or the path of its "
        "JSON file."
    )
    raise ConfigurationError(message)


MaxLength = Annotated[int | None, BeforeValidator(validate_max_length)]
Optimization = Annotated[Optimize, _choice(Optimize)]
Prompts = Annotated[Mapping[str, str] | None, BeforeValidator(_validate_prompts)]


def _as_lists(value: Any) -> Any:  # noqa: ANN401  (an array, lists or None)
    return value.tolist() if hasattr(value, "tolist") else value


class FieldGroup(BaseModel):
    """Base of the fields that public objects inherit."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())


class ModelSettings(FieldGroup):
    """The model, and where and how it runs."""

    model: Annotated[Any, BeforeValidator(_validate_model)] = Field(
        default=MINI,
        kw_only=False,
        description=(
            '"mini" (embedded, English), a Hugging Face Hub name, a folder, a RemoteSpec, '
            "DecoderSpec, FlagSpec or OpenVINOSpec, a Cascade, or a backend object."
        ),
    )
    backend: str = Field(
        default="auto", description='Name of the backend; "auto" chooses by the model.'
    )
    device: Annotated[str | Sequence[str] | None, BeforeValidator(validate_devices)] = Field(
        default=None,
        description=(
            'A torch device such as "cuda:0" or "cpu", or several, each with a replica of the '
            "model; None chooses."
        ),
    )
    dtype: Annotated[Dtype, _choice(Dtype)] = Field(
        default="auto",
        description=(
            'Data type of the arithmetic; "auto" chooses by the device, and never "int8", which '
            "changes scores slightly and runs on a CPU through OpenVINO."
        ),
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the Hub.")
    cache_folder: Annotated[str | Path | None, BeforeValidator(_validate_folder)] = Field(
        default=None, description="Folder of downloaded models; None is Hugging Face's default."
    )
    local_files_only: bool = Field(
        default=False, description="Load only files that are already on this machine."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the model."
    )
    idle_unload_s: Annotated[float | None, BeforeValidator(_validate_idle)] = Field(
        default=None,
        description="Unload the model after this many idle seconds; None keeps it loaded.",
    )
    cache: Annotated[Cache | None, _group(lambda: Cache)] = Field(
        default=None, description="Cache of computed results; None computes every result."
    )


class PromptSettings(FieldGroup):
    """The texts before queries and documents."""

    prompts: Prompts = Field(
        default=None,
        description=(
            'Texts before every query and document, {"query": ..., "document": ...}; a role '
            "left out has the model's own prompt."
        ),
    )


class ScoringSettings(PromptSettings):
    """How a cross-encoder reads and scores the texts of a request."""

    max_length: MaxLength = Field(
        default=512,
        description=(
            "Maximum tokens per pair; longer documents are truncated, and the query only beyond "
            "half of it. None is the model's own maximum length."
        ),
    )
    long_documents: Annotated[
        Literal["truncate", "windows"] | Windows,
        _group(lambda: Windows, "truncate", "windows"),
    ] = Field(
        default="truncate",
        description=(
            '"truncate" reads the beginning of a document that is too long; "windows" or '
            "Windows(...) reads all of it."
        ),
    )
    priority: Annotated[Priority, _choice(Priority)] = Field(
        default="interactive",
        description='Queue priority: "interactive", or "bulk" for lower priority.',
    )
    when_full: Annotated[WhenFull, _choice(WhenFull)] = Field(
        default="wait",
        description=(
            'When the queue is full: "wait" for room, or "raise" an EngineOverloadedError.'
        ),
    )

    @property
    def windows(self) -> Windows | None:
        """How long documents are split; None truncates them."""
        if isinstance(self.long_documents, Windows):
            return self.long_documents
        return Windows() if self.long_documents == "windows" else None


class ActivationSettings(FieldGroup):
    """How raw scores become relevance scores."""

    activation: Annotated[
        Literal["sigmoid", "none"] | str | Path | ScoreCalibrator,
        BeforeValidator(_validate_activation),
        WithJsonSchema({"type": "string"}),
    ] = Field(
        default="sigmoid",
        description=(
            '"sigmoid" maps logits to 0..1; "none" keeps raw scores; a Calibrator, or the path '
            "of its JSON file, maps them to probabilities."
        ),
    )


class RankingSettings(ActivationSettings):
    """How scores become a ranking."""

    top_n: Annotated[int | None, _count("for all")] = Field(
        default=None, description="How many documents to return, at least 1; None returns all."
    )
    score_threshold: Annotated[float | None, _number("to keep all")] = Field(
        default=None, description="Documents with a lower relevance_score are left out."
    )
    fusion: Annotated[
        Literal["none", "rrf", "weighted"] | Fusion,
        _group(lambda: Fusion, "none", "rrf", "weighted"),
    ] = Field(
        default="none",
        description=(
            'Combine model scores with retrieval scores: "none", "rrf", "weighted" or Fusion(...).'
        ),
    )
    dedup: Annotated[float | Dedup | None, _group(lambda: Dedup, number="threshold")] = Field(
        default=None,
        description=(
            "Leave out documents that nearly repeat a better one: a cosine threshold or "
            "Dedup(...); None keeps them."
        ),
    )
    deadline_ms: Annotated[float | None, BeforeValidator(validate_deadline)] = Field(
        default=None,
        description=(
            "Return after this many milliseconds, with the documents scored by then; None waits."
        ),
    )
    on_error: Annotated[OnError, _choice(OnError)] = Field(
        default="raise",
        description='When scoring fails: "raise", or "passthrough" the documents in input order.',
    )

    @property
    def fusion_settings(self) -> Fusion | None:
        """How scores are fused; None ranks by the model alone."""
        if isinstance(self.fusion, Fusion):
            return self.fusion
        return None if self.fusion == "none" else Fusion(self.fusion)

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Refuse settings that contradict each other."""
        super().model_post_init(context)
        calibrated = self.activation not in ("sigmoid", "none")
        if calibrated and self.fusion_settings is not None:
            message = (
                f"fusion is {self.fusion_settings.method!r} and activation is a calibrator, but a "
                "fused score is not a score of the model and has no probability. Leave one of "
                "them out; calibrator(raw_scores) gives the probabilities next to a fusion."
            )
            raise ConfigurationError(message)


class RerankerSettings(RankingSettings, ScoringSettings, ModelSettings):
    """All settings of a reranker."""

    optimize: Optimization = Field(
        default="none",
        description=(
            'torch.compile for encoders of BERT\'s families: "compile", or "reduce-overhead" for '
            "small batches on CUDA; the first batches then take a minute or more."
        ),
    )


class BiEncoderSettings(PromptSettings, ModelSettings):
    """All settings of a bi-encoder."""

    max_length: MaxLength = Field(
        default=None,
        description="Maximum tokens per text; None is the model's own maximum length.",
    )
    truncate_dim: Annotated[int | None, _count("for all dimensions")] = Field(
        default=None, description="Number of leading dimensions to keep; None keeps all."
    )
    precision: Annotated[Precision, _choice(Precision)] = Field(
        default="float32",
        description='"float32", "int8", "uint8", "binary" or "ubinary".',
    )
    ranges: Annotated[Any, BeforeValidator(_as_lists)] = Field(
        default=None,
        description=(
            'For "int8" and "uint8": the result of quantization_ranges on a sample of documents.'
        ),
    )


class ModelConfig(Settings, ModelSettings):
    """The identity of a model in this process: equal configurations share one engine.

    ``idle_unload_s`` and ``cache`` are not part of the identity.
    """

    max_length: MaxLength = None
    optimize: Optimization = "none"
    spec: Annotated[ModelSpec | None, WithJsonSchema({"type": "object"})] = None

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Refuse a model that is not a name."""
        super().model_post_init(context)
        if not isinstance(self.model, str):
            message = f'model is {self.model!r}; give "mini", a Hub name or a folder.'
            raise ConfigurationError(message)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return tuple(
            getattr(self, name)
            for name in type(self).model_fields
            if name not in ("idle_unload_s", "cache")
        )

    def __eq__(self, other: object) -> bool:
        """Return whether both mean the same model."""
        return isinstance(other, ModelConfig) and self._identity == other._identity

    def __hash__(self) -> int:
        """Hash what :meth:`__eq__` compares."""
        return hash(self._identity)
