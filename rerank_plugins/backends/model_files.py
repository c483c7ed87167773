"""A model's folder, looked at before anything reads it: files that are none, or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, NamedTuple

from transformers.utils.hub import cached_file

from rerank_plugins.backends.config_limits import validate_settings
from rerank_plugins.backends.tokenizer import validate_tokenizer
from rerank_plugins.engine.backend import Role
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


def validate_folder(folder: Path) -> None:
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
        _validate_bytes(path, _MOST_BYTES.get(path.suffix))
        if path.name == "config.json":
            validate_settings(_read(path), str(path), weights)
        elif path.name == "tokenizer.json":
            validate_tokenizer(_read(path, _TOKENIZER_BYTES), str(path))
        elif path.name.endswith(INDEX):
            validate_index(_read(path, _TOKENIZER_BYTES), str(path))
    if (folder / ADAPTER[0]).exists() and not (folder / ADAPTER[1]).exists():
        raise pickled_adapter(str(folder))


def validate_index(index: Any, where: str) -> None:  # noqa: ANN401  (any JSON)
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


def _validate_bytes(file: Path, most: int | None) -> None:
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
    _validate_bytes(file, most)
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


_SETTINGS: Final = "config_sentence_transformers.json"
_NO_PICKLE: Final = ("Transformer", "Pooling", "Normalize")
"""Modules without weights, or that are told to read safetensors only."""


class Part(NamedTuple):
    """One module of a sentence-transformers model.

    Attributes:
        kind: Name of its class, without the package.
        path: Its folder within the model's; empty for the model's own.
    """

    kind: str
    path: str


def read_json(source: str, name: str, options: dict[str, Any]) -> Any:  # noqa: ANN401  (any JSON)
    """Return what a JSON file beside a model's weights holds, or None where there is none.

    Args:
        source: Folder or Hub name.
        name: The file, with its folder within the model's.
        options: Where the hub's files are; see
            :func:`~rerank_plugins.backends.hub.hub_options`.

    Raises:
        ModelLoadError: If it is not JSON.
    """
    where = {key: value for key, value in options.items() if key != "trust_remote_code"}
    file = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **where)
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{source!r} cannot be loaded: {name} is no JSON: {error}. Mend it, or remove it."
        raise ModelLoadError(message) from error


def validate_source(source: str, options: dict[str, Any]) -> None:
    """Check a model of the hub as :func:`~rerank_plugins.backends.model_files.validate_folder` a folder.

    Its settings and its list of files are had first, its weights only after that.

    Raises:
        ModelLoadError: If its sizes are absurd, or its weights are not all safetensors of its own.
    """
    if Path(source).is_absolute():  # it was checked when it was found
        return
    settings = read_json(source, "config.json", options)
    validate_settings(settings, f"config.json of {source!r}")
    validate_tokenizer(read_json(source, "tokenizer.json", options), f"tokenizer of {source!r}")
    own = settings.get("transformers_weights") if isinstance(settings, dict) else None
    for name in (f"model{INDEX}", own):
        if name is not None and name.endswith(INDEX):
            validate_index(read_json(source, name, options), f"{name} of {source!r}")
    if read_json(source, ADAPTER[0], options) is not None and not _is_there(
        source, ADAPTER[1], options
    ):
        raise pickled_adapter(repr(source))


def _is_there(source: str, name: str, options: dict[str, Any]) -> bool:
    where = {key: value for key, value in options.items() if key != "trust_remote_code"}
    return (
        cached_file(source, name, _raise_exceptions_for_missing_entries=False, **where) is not None
    )


def read_modules(source: str, options: dict[str, Any]) -> list[Part]:
    """Return the modules that ``modules.json`` lists; most rerankers have none.

    Raises:
        ModelLoadError: If the file is not what sentence-transformers writes.
    """
    listed = read_json(source, "modules.json", options) or []
    try:
        parts = [Part(one["type"].rpartition(".")[2], one["path"]) for one in listed]
        outside = [one.path for one in parts if not within(one.path)]
    except (AttributeError, KeyError, TypeError) as error:
        message = f"modules.json of {source!r} does not list modules. Mend it, or remove it."
        raise ModelLoadError(message) from error
    if outside:
        message = (
            f"modules.json of {source!r} names {outside[0]!r:.80}, which is not within the model's "
            "folder. Nothing outside it is read: do not trust this model."
        )
        raise ModelLoadError(message)
    return parts


def validate_modules(source: str, options: dict[str, Any]) -> None:
    """Check that every module lies in the model's folder and none has its weights as a pickle.

    Raises:
        ModelLoadError: If not; sentence-transformers would read it.
    """
    for part in read_modules(source, options):
        if part.kind in _NO_PICKLE:
            continue
        safe, pickled = (
            _is_there(source, f"{part.path}/{name}", options)
            for name in ("model.safetensors", "pytorch_model.bin")
        )
        if pickled and not safe:
            message = (
                f"{source!r} has the weights of its module {part.path!r} as a pickle only "
                "(pytorch_model.bin), which could hold a program. Save the model anew with "
                "sentence-transformers, which writes safetensors."
            )
            raise ModelLoadError(message)


def is_modular(source: str, options: dict[str, Any]) -> bool:
    """Return whether a model has more than one module, so that its head is not its own."""
    return len(read_modules(source, options)) > 1


def model_kind(source: str, options: dict[str, Any]) -> str | None:
    """Return what a model was saved as by sentence-transformers, such as ``"CrossEncoder"``."""
    settings = read_json(source, _SETTINGS, options)
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    return kind if isinstance(kind, str) else None


def default_prompt(source: str, options: dict[str, Any]) -> str | None:
    """Return the prompt that sentence-transformers uses where none is asked for.

    Raises:
        ModelLoadError: If the file does not hold prompts by name.
    """
    settings = read_json(source, _SETTINGS, options)
    if not isinstance(settings, dict):
        return None
    prompts, name = settings.get("prompts") or {}, settings.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not isinstance(name, str):
        message = (
            f"{_SETTINGS} of {source!r} has {prompts!r:.80} as prompts and {name!r:.80} as "
            "default_prompt_name; they must be an object and one of its names. Mend the file."
        )
        raise ModelLoadError(message)
    prompt = prompts.get(name)
    return prompt if isinstance(prompt, str) else None


_FILE: Final = "config_sentence_transformers.json"


def read_prompts(source: str, options: dict[str, Any]) -> dict[Role, str]:
    """Read the prompts that sentence-transformers keeps beside a model.

    Its prompt of the name ``"query"``, else its default one, goes before queries; the one of
    the name ``"document"`` before documents.

    Args:
        source: Folder or hub name.
        options: Where the hub's files are; see
            :func:`~rerank_plugins.backends.hub.hub_options`.

    Returns:
        Only what the model has; most have nothing.

    Raises:
        ModelLoadError: If the file is not what sentence-transformers writes.
    """
    where = {name: value for name, value in options.items() if name != "trust_remote_code"}
    file = cached_file(source, _FILE, _raise_exceptions_for_missing_entries=False, **where)
    if file is None:
        return {}
    try:
        settings = json.loads(Path(file).read_text(encoding="utf-8"))
        prompts = settings.get("prompts") or {}
        query = prompts.get("query") or prompts.get(settings.get("default_prompt_name") or "")
        found: dict[Role, Any] = {"query": query, "document": prompts.get("document")}
    except (AttributeError, TypeError, ValueError) as error:
        message = f"{_FILE} of {source!r} cannot be read: {error}. Mend it, or remove it."
        raise ModelLoadError(message) from error
    return {role: str(prompt) for role, prompt in found.items() if prompt}
