"""The fields that the adapters of both frameworks share, so that a name means one thing.

Names and defaults are those of :class:`~rerank_plugins.Reranker` and
:class:`~rerank_plugins.BiEncoder`; a test compares them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field, ValidationInfo, field_serializer, field_validator

from rerank_plugins.backends.model_specs import DecoderSpec, FlagSpec, OpenVINOSpec, RemoteSpec
from rerank_plugins.config import (
    MINI,
    Activation,
    Dtype,
    Fusion,
    LongDocuments,
    ModelConfig,
    OnError,
    Optimize,
    Overload,
    Priority,
    validate_count,
    validate_deadline,
    validate_number,
    validate_top_n,
)
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.quantization import Precision
from rerank_plugins.core.reranker import Reranker

_SETTINGS: Final[dict[str, Any]] = {
    "url": RemoteSpec,
    "family": DecoderSpec,
    "variant": FlagSpec,
    "calibration": OpenVINOSpec,
}
"""What a model can be described by, under the name of a field that only it has."""


class ModelFields(BaseModel):
    """Which model, and where and how it runs."""

    model: Any = Field(
        default=MINI,
        description=(
            '"mini" (embedded), a Hub name, a folder, a DecoderSpec, FlagSpec, OpenVINOSpec '
            "or RemoteSpec, or a backend object."
        ),
    )
    backend: str = Field(default="auto", description="What computes; auto chooses by the model.")
    device: str | list[str] | None = Field(
        default=None, description="A torch device such as cuda:0 or cpu, or several; None chooses."
    )
    dtype: Dtype = Field(
        default="auto", description="Data type of the arithmetic; auto chooses by the device."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    cache_folder: str | None = Field(default=None, description="Where downloads are kept.")
    local_files_only: bool = Field(
        default=False, description="Use only what is already on this machine."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the model."
    )
    idle_unload_s: float | None = Field(
        default=None, description="Seconds without work after which the memory is given back."
    )
    cache_mb: float = Field(
        default=0, description="Megabytes for results computed before; 0 keeps none."
    )
    cache_entries: int | None = Field(
        default=None, description="Most results in those megabytes; None sets no bound."
    )
    cache_dir: str | None = Field(
        default=None, description="Folder for results that outlast the process."
    )
    cache_dir_mb: float = Field(default=1024, description="Megabytes of that folder.")

    # These run before pydantic converts, which would read True as 1 and refuse a Path.

    @field_validator("model", mode="before")
    @classmethod
    def _settings_again(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        kind = next((one for name, one in _SETTINGS.items() if name in value), RemoteSpec)
        return kind(**value)

    @field_serializer("model")
    def _settings_without_token(self, value: object) -> object:
        named = isinstance(value, tuple(_SETTINGS.values()))
        to_dict = getattr(value, "to_dict", None) if named else None
        return value if to_dict is None else to_dict()

    @field_validator("model", "cache_folder", "cache_dir", mode="before")
    @classmethod
    def _path_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("max_length", mode="before", check_fields=False)
    @classmethod
    def _checked_max_length(cls, value: Any) -> int | None:  # noqa: ANN401  (not yet checked)
        return ModelConfig(max_length=value).max_length


class RerankerFields(ModelFields):
    """Everything a :class:`~rerank_plugins.Reranker` can be told."""

    optimize: Optimize = Field(
        default="none",
        description="compile or reduce-overhead (with CUDA graphs) compiles the model.",
    )
    max_length: int | None = Field(
        default=512, description="Most tokens a pair may have; the document is cut to fit."
    )
    top_n: int | None = Field(
        default=None, description="How many documents to return, at least 1; None returns all."
    )
    score_threshold: float | None = Field(
        default=None, description="Documents with a lower relevance score are left out."
    )
    activation: Activation = Field(
        default="sigmoid", description="sigmoid for scores from 0 to 1, none for logits."
    )
    calibrator: Any = Field(
        default=None, description="Makes probabilities of raw scores: its JSON file, or the object."
    )
    fusion: Fusion = Field(
        default="none", description="rrf or weighted lets the first stage have a say in the order."
    )
    fusion_weight: float = Field(
        default=0.5,
        description="The model's share in a fusion, 0 to 1; the rest is the first's.",
    )
    drop_similar: float | None = Field(
        default=None,
        description="Leave out documents whose cosine with a better one is at least this.",
    )
    similarity_model: Any = Field(
        default=MINI, description="The bi-encoder that tells what is similar, or its name."
    )
    long_documents: LongDocuments = Field(
        default="truncate", description="truncate, or read long documents whole in windows."
    )
    window_overlap: int = Field(
        default=64, description="Tokens that a window shares with the one before it."
    )
    max_windows: int | None = Field(
        default=32, description="Most windows of a document, spread evenly over it; None is all."
    )
    best_windows: int = Field(
        default=1, description="A document's score is the mean of its best so many windows."
    )
    query_prompt: str | None = Field(
        default=None, description="Put before every query; None is the model's own."
    )
    document_prompt: str | None = Field(
        default=None, description="Put before every document; None is the model's own."
    )
    deadline_ms: float | None = Field(
        default=None, description="Answer after so many milliseconds with what is scored by then."
    )
    on_error: OnError = Field(
        default="raise", description="If scoring fails: raise, or passthrough the input's order."
    )
    priority: Priority = Field(
        default="interactive", description="interactive, or bulk to stand behind the former."
    )
    overload: Overload = Field(
        default="wait", description="While the engine's queue is full: wait, or raise."
    )

    @field_validator("top_n", mode="before")
    @classmethod
    def _checked_top_n(cls, value: Any) -> int | None:  # noqa: ANN401  (not yet checked)
        return validate_top_n(value)

    @field_validator("window_overlap", "max_windows", "best_windows", mode="before")
    @classmethod
    def _checked_count(cls, value: Any, info: ValidationInfo) -> int | None:  # noqa: ANN401
        return validate_count(str(info.field_name), value, "for all", least=0)

    @field_validator("deadline_ms", mode="before")
    @classmethod
    def _checked_deadline(cls, value: Any) -> float | None:  # noqa: ANN401
        return validate_deadline(value)

    @field_validator("score_threshold", "fusion_weight", "drop_similar", mode="before")
    @classmethod
    def _checked_number(cls, value: Any, info: ValidationInfo) -> float | None:  # noqa: ANN401
        return validate_number(str(info.field_name), value, "for none")

    @field_validator("calibrator", "similarity_model", mode="before")
    @classmethod
    def _file_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    def reranker(self) -> Reranker:
        """Return a reranker with these settings; it shares the process's one model.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        return Reranker(**{name: getattr(self, name) for name in RerankerFields.model_fields})


class BiEncoderFields(ModelFields):
    """Everything a :class:`~rerank_plugins.BiEncoder` can be told."""

    max_length: int | None = Field(
        default=None,
        description="Most tokens a text may have; None is the model's own maximum length.",
    )
    query_prompt: str | None = Field(
        default=None, description="Put before every query; None is the model's own prompt."
    )
    document_prompt: str | None = Field(
        default=None, description="Put before every document; None is the model's own prompt."
    )

    truncate_dim: int | None = Field(
        default=None, description="How many dimensions are kept, the first ones; None is all."
    )
    precision: Precision = Field(
        default="float32",
        description="float32, or int8, uint8, binary or ubinary: whole numbers in float lists.",
    )
    ranges: Any = Field(
        default=None,
        description="For int8 and uint8: what BiEncoder.value_ranges gave for a sample.",
    )

    @field_validator("truncate_dim", mode="before")
    @classmethod
    def _checked_dimensions(cls, value: Any) -> int | None:  # noqa: ANN401  (not yet checked)
        return validate_count("truncate_dim", value, "for all dimensions")

    @field_validator("ranges", mode="before")
    @classmethod
    def _ranges_as_lists(cls, value: Any) -> Any:  # noqa: ANN401  (an array, lists or None)
        return value.tolist() if hasattr(value, "tolist") else value

    def bi_encoder(self) -> BiEncoder:
        """Return a bi-encoder with these settings; it shares the process's one model.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        return BiEncoder(**{name: getattr(self, name) for name in BiEncoderFields.model_fields})
