"""A model's folder, looked at before anything reads it: files that are none, absurd sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rerank_plugins.errors import ModelLoadError

_MOST: Final = {
    "vocab_size": 10_000_000,
    "type_vocab_size": 1_000_000,
    "max_position_embeddings": 100_000_000,
    "num_labels": 10_000,
    "num_hidden_layers": 2_000,
    "num_layers": 2_000,
    "num_decoder_layers": 2_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "hidden_size": 1_000_000,
    "embedding_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "d_model": 1_000_000,
    "d_ff": 10_000_000,
}
"""Far beyond every model that there is; what is larger would only fill the memory."""

_SETTINGS_BYTES: Final = 16 * 2**20
_DEPTH: Final = 8


def check_folder(folder: Path) -> None:
    """Check that a model's folder holds files that end, and settings that fit into a machine.

    A pipe or a device in the place of a file would be read for ever, and a configuration with
    a billion layers would be built until no memory is left.

    Raises:
        ModelLoadError: If it does not.
    """
    for path in _entries(folder):
        if not (path.is_file() or path.is_dir()) and path.exists():
            message = f"{path} is a pipe, a socket or a device, not a file. Remove it."
            raise ModelLoadError(message)
    file = folder / "config.json"
    if not file.is_file():
        return
    if file.stat().st_size > _SETTINGS_BYTES:
        message = f"{file} has {file.stat().st_size} bytes; a configuration has a few thousand."
        raise ModelLoadError(message)
    try:
        settings = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return  # the loader says what is wrong with it
    for name, value in _numbers(settings):
        if not 0 <= value <= _MOST[name]:
            message = (
                f"{name} is {value:.6g} in {file}; it must be from 0 to {_MOST[name]}. "
                "The file is damaged, or not that of a model."
            )
            raise ModelLoadError(message)


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and in those below it, one level deep."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.iterdir()


def _numbers(settings: Any, depth: int = 0) -> Iterator[tuple[str, float]]:  # noqa: ANN401  (JSON)
    """Yield each bounded number by name, also of nested configurations."""
    if not isinstance(settings, dict) or depth > _DEPTH:
        return
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value, depth + 1)
        elif name in _MOST and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value
