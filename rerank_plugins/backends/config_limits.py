"""Limits on the sizes that a model's configuration may ask for."""

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
"""Far beyond every model that there is; what is larger would only fill the memory."""

_TABLES: Final = (
    (("vocab_size", "hidden_size"), 2**34),
    (("num_hidden_layers", "hidden_size", "intermediate_size"), 2**40),
    (("num_layers", "d_model", "d_ff"), 2**40),
    (("num_hidden_layers", "hidden_size", "hidden_size"), 2**40),
    (("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim"), 2**40),
    (("num_hidden_layers", "hidden_size", "num_key_value_heads", "head_dim"), 2**40),
    (("in_features", "out_features"), 2**30),
)
"""Sizes whose product is about how many numbers a model has there, and the most of them."""

_NUMBERS_A_BYTE: Final = 8
"""Weights of 4 bits have two; layers that share their weights, as ALBERT's, a dozen times that."""

_SMALL: Final = 2**26
"""Numbers that any model may have, whatever its weights' size."""

_CODE: Final = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""Settings with which transformers fetches compiled code from the hub if it is named there."""

_WEIGHTS: Final = (".safetensors", ".safetensors.index.json")

_DEPTH: Final = 8


def validate_settings(settings: Any, where: str, weights: int = 0) -> None:  # noqa: ANN401  (JSON)
    """Check that a configuration asks for sizes that there are, and for no code of the hub.

    Args:
        settings: What the file holds; None where there is none.
        where: The file, for messages.
        weights: Bytes of the weights that go with it; 0 where that is not known.

    Raises:
        ModelLoadError: If it does not.
    """
    for group in _groups(settings):
        sizes = {name: value for name, value in group.items() if _bounded(name, value)}
        for name, value in sizes.items():
            if not 0 <= value <= _MAX_SIZE[name]:
                _refuse(f"{name} is {value:.6g}", where, f"from 0 to {_MAX_SIZE[name]}")
        for names, most in _TABLES:
            numbers = math.prod(sizes.get(name, 0) for name in names)
            allowed = min(most, _NUMBERS_A_BYTE * weights + _SMALL) if weights else most
            if numbers > allowed:
                what = f"{' times '.join(names)} is {numbers:.6g}"
                _refuse(what, where, f"at most {allowed:.6g} with these weights")
        weights_file = group.get("transformers_weights")
        if weights_file is not None and not str(weights_file).endswith(_WEIGHTS):
            message = (
                f"transformers_weights is {weights_file!r:.80} in {where}; only safetensors are "
                "read. Remove the setting, or save the model anew."
            )
            raise ModelLoadError(message)
        for name in _CODE:
            if "/" in str(group.get(name)):
                message = (
                    f"{name} is {group[name]!r:.80} in {where}: compiled code from the hub, which "
                    "is not run. Remove the setting."
                )
                raise ModelLoadError(message)


def smallest_max_seq_length(
    limits: Iterable[tuple[str, Any]], model: str, at_least: int = MIN_MAX_LENGTH
) -> int:
    """Return the most tokens that a model reads: the least of what its files say.

    Args:
        limits: Entries of the files and their values.
        model: Its name, for messages.
        at_least: What each must be. A pair of an encoder has special tokens, and is not cut
            to nothing.

    Raises:
        ModelLoadError: If a value is no such number of tokens.
    """
    known = list(limits)
    for name, most in known:
        if isinstance(most, bool) or not isinstance(most, (int, float)) or not most >= at_least:
            message = (
                f"{name} is {most!r:.80} in the files of {model!r}; it must be a number of tokens, "
                f"at least {at_least}. Mend the file."
            )
            raise ModelLoadError(message)
    return int(min(most for _, most in known))


def _refuse(what: str, where: str, allowed: str) -> None:
    message = (
        f"{what} in {where}; it must be {allowed}. The file is damaged, or not that of a model."
    )
    raise ModelLoadError(message)


def _bounded(name: str, value: object) -> bool:
    return name in _MAX_SIZE and isinstance(value, (int, float)) and not isinstance(value, bool)


def _groups(settings: Any, depth: int = 0) -> Iterator[dict[str, Any]]:  # noqa: ANN401  (JSON)
    """Yield a configuration, and those within it."""
    if isinstance(settings, dict) and depth <= _DEPTH:
        yield settings
        for value in settings.values():
            yield from _groups(value, depth + 1)
