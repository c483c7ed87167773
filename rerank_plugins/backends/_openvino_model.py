"""A cross-encoder in int8, quantised on the user's own texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins.core.types import TextPair
from rerank_plugins.errors import ConfigurationError


@dataclass(frozen=True)
class OpenVINOModel:
    """A local cross-encoder for OpenVINO; give it as ``model=`` wherever a name goes.

    Only ``dtype="int8"`` needs calibration texts, and a name alone brings a sample in
    English. Texts like those that will be ranked widen its ranges where they have to be wider.

    Attributes:
        model: ``"mini"``, a Hugging Face Hub name or a folder.
        calibration: Pairs of a query and a document, used besides the bundled sample; 50 to
            300 are usual. No judgments are needed. None is the bundled sample alone.

    Example:
        >>> from rerank_plugins import OpenVINOModel
        >>> model = OpenVINOModel("mini", calibration=[("who wrote Faust", "Goethe did.")])
        >>> str(model)
        'mini'
    """

    model: str | Path
    calibration: Sequence[tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        """Check every field, and make it hashable.

        Raises:
            ConfigurationError: If the calibration pairs are not pairs of texts, or none.
        """
        if self.calibration is None:
            return
        pairs = tuple(self.calibration)
        for number, pair in enumerate(pairs):
            words = isinstance(pair, (tuple, list)) and [isinstance(one, str) for one in pair]
            if words != [True, True]:
                message = f"calibration[{number}] is {pair!r}; it must be (query, document)."
                raise ConfigurationError(message)
        if not pairs:
            message = "calibration has no pairs; give some, or None for the bundled sample."
            raise ConfigurationError(message)
        object.__setattr__(self, "calibration", tuple(TextPair(*pair) for pair in pairs))

    @property
    def backend_name(self) -> str:
        """The name under which :mod:`rerank_plugins.backends` knows it."""
        return "openvino"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        pairs = None if self.calibration is None else [list(pair) for pair in self.calibration]
        return {"model": str(self.model), "calibration": pairs}

    def __str__(self) -> str:
        """Return the model's name."""
        return str(self.model)
