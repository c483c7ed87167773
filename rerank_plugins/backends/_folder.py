"""A model's folder, looked at before anything reads it: files that are none, or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from rerank_plugins.backends._growth import check_tokenizer
from rerank_plugins.backends._sizes import check_settings
from rerank_plugins.errors import ModelLoadError

INDEX: Final = ".safetensors.index.json"
"""What files end in that name the files which large weights are cut into."""

ADAPTER: Final = ("adapter_config.json", "adapter_model.safetensors")
"""Files of an adapter: what it is, and its weights."""

_SETTINGS_BYTES: Final = 16 * 2**20
_TOKENIZER_BYTES: Final = 256 * 2**20
"""Those of 262,144 words have 33 MiB."""

_MOST_BYTES: Final = {
    ".jinja": _SETTINGS_BYTES,
    **dict.fromkeys((".json", ".model"), _TOKENIZER_BYTES),
}
"""Of files that are read whole, by what their names end in."""


def check_folder(folder: Path) -> None:
    """Check that a model's folder holds files that end, and settings that fit into a machine.

    A pipe or a device in the place of a file would be read for ever, and a configuration with
    a billion layers would be built until no memory is left.

    Raises:
        ModelLoadError: If it does not.
    """
    entries = list(_entries(folder))
    for path in entries:
        if not (path.is_file() or path.is_dir()) and path.exists():
            message = f"{path} is a pipe, a socket or a device, not a file. Remove it."
            raise ModelLoadError(message)
    files = [path for path in entries if path.is_file()]
    weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    for path in files:
        _check_bytes(path, _MOST_BYTES.get(path.suffix))
        if path.name == "config.json":
            check_settings(_read(path), str(path), weights)
        elif path.name == "tokenizer.json":
            check_tokenizer(_read(path, _TOKENIZER_BYTES), str(path))
        elif path.name.endswith(INDEX):
            check_index(_read(path, _TOKENIZER_BYTES), str(path))
    if (folder / ADAPTER[0]).exists() and not (folder / ADAPTER[1]).exists():
        raise pickled_adapter(str(folder))


def check_index(index: Any, where: str) -> None:  # noqa: ANN401  (any JSON)
    """Check that weights which are cut into files name safetensors in the model's own folder.

    transformers would read a file anywhere on the machine, and open one with another ending
    as a pickle.

    Args:
        index: What the file of the index holds; None where there is none.
        where: The file, for messages.

    Raises:
        ModelLoadError: If they do not.
    """
    shards = index.get("weight_map") if isinstance(index, dict) else None
    for shard in shards.values() if isinstance(shards, dict) else ():
        if not isinstance(shard, str) or not within(shard) or not shard.endswith(".safetensors"):
            message = (
                f"{where} names {shard!r:.80}, which is no safetensors file within the model's "
                "folder. Nothing else is read: do not trust this model, or save it anew with "
                "safe_serialization=True."
            )
            raise ModelLoadError(message)


def pickled_adapter(where: str) -> ModelLoadError:
    """Return the error of an adapter without safetensors: transformers would open a pickle."""
    message = (
        f"{where} has {ADAPTER[0]} and no {ADAPTER[1]}; a pickle is not read. Merge the adapter "
        "into its model, or save it anew with safetensors."
    )
    return ModelLoadError(message)


def within(path: str) -> bool:
    """Return whether a path stays in the folder it is relative to, on any system."""
    for kind in (PurePosixPath(path), PureWindowsPath(path)):
        if kind.is_absolute() or kind.drive or kind.root or ".." in kind.parts:
            return False
    return "\0" not in path


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and in those below it, one level deep."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.iterdir()


def _check_bytes(file: Path, most: int | None) -> None:
    if most is not None and file.stat().st_size > most:
        message = (
            f"{file} has {file.stat().st_size} bytes; at most {most} are read of it. The file is "
            "damaged, or no part of a model: remove it."
        )
        raise ModelLoadError(message)


def _read(file: Path, most: int = _SETTINGS_BYTES) -> Any:  # noqa: ANN401  (any JSON)
    """Return what a JSON file holds; None if that is nothing, on which the loader has its say.

    Raises:
        ModelLoadError: If it is far too large.
    """
    if not file.is_file():
        return None
    _check_bytes(file, most)
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
