"""Limits of a model's configuration: sizes, and settings that would load foreign code.

A configuration is checked before the model is created from it, because a few damaged or malicious
values would allocate all memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from rerank_plugins.config import MIN_MAX_LENGTH
from rerank_plugins.errors import ModelLoadError

_MAX_SIZE: Final = {
    "vocab_size": 10_000_000,
    "type_vocab_size": 1_000_000,
    "max_position_embeddings": 100_000_000,
    "num_labels": 10_000,
    "num_hidden_layers": 2_000,
    "num_layers": 2_000,
    "num_decoder_layers": 2_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "rotary_dim": 100_000,
    "partial_rotary_factor": 1,
    "rotary_pct": 1,
    "hidden_size": 1_000_000,
    "embedding_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "d_model": 1_000_000,
    "d_ff": 10_000_000,
    "in_features": 1_000_000,
    "out_features": 1_000_000,
}
"""Far above the values of all known models."""

_WEIGHT_SIZES: Final = (
    (("vocab_size", "hidden_size"), 2**34),
    (("num_hidden_layers", "hidden_size", "intermediate_size"), 2**40),
    (("num_layers", "d_model", "d_ff"), 2**40),
    (("num_hidden_layers", "hidden_size", "hidden_size"), 2**40),
    (("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim"), 2**40),
    (("num_hidden_layers", "hidden_size", "num_key_value_heads", "head_dim"), 2**40),
    (("in_features", "out_features"), 2**30),
)
"""Settings whose product approximates a number of weights, and the maximum of that product."""

_MAX_WEIGHTS_PER_BYTE: Final = 8
"""4-bit weights have two per byte; models that share weights between layers, such as ALBERT, have
more."""

_ALWAYS_ALLOWED_WEIGHTS: Final = 2**26
"""Number of weights that is allowed for any size of the weights' file."""

_CODE_SETTINGS: Final = (
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
)
"""Settings that make transformers download compiled code if they name a Hub repository."""

_WEIGHT_FILES: Final = (".safetensors", ".safetensors.index.json")

_MAX_DEPTH: Final = 8


def validate_config(settings: Any, where: str, weight_bytes: int = 0) -> None:  # noqa: ANN401
    """Validate the sizes in a model's configuration and that it loads no code from the Hub.

    Args:
        settings: Content of the file (any JSON); None if there is no such file.
        where: The file, for error messages.
        weight_bytes: Size of the model's weights; 0 if unknown.

    Raises:
        ModelLoadError: If a setting is not allowed.
    """
    for group in _groups(settings):
        _validate_sizes(group, where, weight_bytes)
        weights_file = group.get("transformers_weights")
        if weights_file is not None and not str(weights_file).endswith(_WEIGHT_FILES):
            message = (
                f"transformers_weights is {weights_file!r:.80} in {where}; only safetensors are "
                "read. Remove the setting, or save the model again."
            )
            raise ModelLoadError(message)
        for name in _CODE_SETTINGS:
            if "/" in str(group.get(name)):
                message = (
                    f"{name} is {group[name]!r:.80} in {where}: compiled code from the Hub, which "
                    "is not run. Remove the setting."
                )
                raise ModelLoadError(message)


def smallest_max_seq_length(
    limits: Iterable[tuple[str, Any]], model: str, at_least: int = MIN_MAX_LENGTH
) -> int:
    """Return a model's maximum sequence length: the smallest limit in its files.

    Args:
        limits: Names and values of the limits.
        model: The model's name, for error messages.
        at_least: Smallest valid value. The default leaves room for the special tokens of a pair.

    Raises:
        ModelLoadError: If a value is not a valid number of tokens.
    """
    values = []
    for name, value in limits:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not value >= at_least:
            message = (
                f"{name} is {value!r:.80} in the files of {model!r}; it must be a number of "
                f"tokens of at least {at_least}. Fix the file."
            )
            raise ModelLoadError(message)
        values.append(value)
    return int(min(values))


def _validate_sizes(group: dict[str, Any], where: str, weight_bytes: int) -> None:
    sizes = {
        name: value
        for name, value in group.items()
        if name in _MAX_SIZE and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    for name, value in sizes.items():
        if not 0 <= value <= _MAX_SIZE[name]:
            setting = f"{name} is {value:.6g}"
            raise _invalid(setting, where, f"from 0 to {_MAX_SIZE[name]}")
    for names, maximum in _WEIGHT_SIZES:
        product = math.prod(sizes.get(name, 0) for name in names)
        allowed: float = maximum
        if weight_bytes:
            allowed = min(maximum, _MAX_WEIGHTS_PER_BYTE * weight_bytes + _ALWAYS_ALLOWED_WEIGHTS)
        if product > allowed:
            setting = f"{' times '.join(names)} is {product:.6g}"
            raise _invalid(setting, where, f"at most {allowed:.6g} with these weights")


def _invalid(setting: str, where: str, allowed: str) -> ModelLoadError:
    message = (
        f"{setting} in {where}; it must be {allowed}. The file is damaged, or does not belong to a "
        "model."
    )
    return ModelLoadError(message)


def _groups(settings: Any, depth: int = 0) -> Iterator[dict[str, Any]]:  # noqa: ANN401  (any JSON)
    """Yield a configuration and the configurations nested in it."""
    if isinstance(settings, dict) and depth <= _MAX_DEPTH:
        yield settings
        for value in settings.values():
            yield from _groups(value, depth + 1)
