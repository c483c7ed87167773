"""Fields that the adapters of both frameworks share, derived from :mod:`rerank_plugins.config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import PrivateAttr, field_serializer, field_validator

from rerank_plugins.backends.model_specs import DecoderSpec, FlagSpec, OpenVINOSpec, RemoteSpec
from rerank_plugins.config import BiEncoderSettings, ModelSettings, RerankerSettings
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.reranker import Reranker

_SPECS: Final[Mapping[str, Any]] = {
    "url": RemoteSpec,
    "family": DecoderSpec,
    "variant": FlagSpec,
    "calibration": OpenVINOSpec,
}
"""Model specs by the name of a field that only one of them has."""


class _Kept:
    """An object made from settings, kept as long as they stay the same.

    It is never changed, so that copies of an adapter can share it. It is no part of an adapter's
    value: all are equal, and a pickle holds an empty one.
    """

    def __init__(self, values: tuple[Any, ...] | None = None, made: Any = None) -> None:  # noqa: ANN401
        self.values = values
        self.made = made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()

    def __copy__(self) -> _Kept:
        return self

    def __deepcopy__(self, memo: object) -> _Kept:
        return self


class ModelFields(ModelSettings):
    """The model of an adapter: a spec survives serialization, without its token."""

    _kept: _Kept = PrivateAttr(default_factory=_Kept)

    @field_validator("model", mode="before")
    @classmethod
    def _spec_from_dict(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        spec = next((spec for name, spec in _SPECS.items() if name in value), RemoteSpec)
        return spec(**value)

    @field_serializer("model")
    def _spec_to_dict(self, value: object) -> object:
        to_dict = getattr(value, "to_dict", None)
        return to_dict() if to_dict and isinstance(value, tuple(_SPECS.values())) else value

    def _keep(self, cls: Any, **changes: Any) -> Any:  # noqa: ANN401  (any class of settings)
        """Return an object of a class with the current settings; the same while they stay."""
        names = [name for name in cls.model_fields if name in type(self).model_fields]
        values = tuple(getattr(self, name) for name in names)
        if self._kept.values != values:
            self._kept = _Kept(values, cls(**dict(zip(names, values, strict=True)) | changes))
        return self._kept.made


class RerankerFields(ModelFields, RerankerSettings):
    """All settings of a :class:`~rerank_plugins.Reranker`."""

    def reranker(self) -> Reranker:
        """Return the reranker with these settings; it shares the process's engine.

        The reranker is kept until a setting changes. A calibrator given as a file is read once.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        reranker: Reranker = self._keep(Reranker)
        return reranker


class BiEncoderFields(ModelFields, BiEncoderSettings):
    """All settings of a :class:`~rerank_plugins.BiEncoder`."""

    def bi_encoder(self) -> BiEncoder:
        """Return the bi-encoder with these settings; it shares the process's engine.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        encoder: BiEncoder = self._keep(BiEncoder)
        return encoder
