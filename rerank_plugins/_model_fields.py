"""The fields that say which model, for the adapters of both frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field, field_serializer, field_validator

from rerank_plugins.backends._openvino_model import OpenVINOModel
from rerank_plugins.backends.decoder.settings import DecoderModel
from rerank_plugins.backends.flag.settings import FlagModel
from rerank_plugins.backends.remote.settings import RemoteModel
from rerank_plugins.core.config import MINI, Dtype, ModelConfig

_SETTINGS: Final[dict[str, Any]] = {
    "url": RemoteModel,
    "family": DecoderModel,
    "variant": FlagModel,
    "calibration": OpenVINOModel,
}
"""What a model can be described by, under the name of a field that only it has."""


class ModelFields(BaseModel):
    """Which model, and where and how it runs."""

    model: Any = Field(
        default=MINI,
        description=(
            '"mini" (embedded), a Hub name, a folder, a DecoderModel, FlagModel, OpenVINOModel '
            "or RemoteModel, or a backend object."
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
        kind = next((one for name, one in _SETTINGS.items() if name in value), RemoteModel)
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
