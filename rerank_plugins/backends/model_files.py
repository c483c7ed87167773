"""Reading and validation of a model's files before any library loads them.

Only regular files of limited size inside the model's own folder are read, and weights only from
safetensors: a pickle can run code. Folders are validated by :func:`validate_folder`, models of the
Hub by :func:`validate_source`, and modules of sentence-transformers by :func:`validate_modules`.
The ``options`` of the functions are those of :func:`~rerank_plugins.backends.hub.hub_options`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, NamedTuple

from transformers.utils.hub import cached_file

from rerank_plugins.backends.tokenizer import validate_tokenizer
from rerank_plugins.config import MIN_MAX_LENGTH
from rerank_plugins.engine.backend import Role
from rerank_plugins.errors import ModelLoadError

_INDEX: Final = ".safetensors.index.json"
"""Suffix of the file that lists the parts of sharded weights."""

_ADAPTER: Final = ("adapter_config.json", "adapter_model.safetensors")
"""Configuration and weights of an adapter."""

_SENTENCE_TRANSFORMERS: Final = "config_sentence_transformers.json"

_WITHOUT_PICKLES: Final = ("Transformer", "Pooling", "Normalize")
"""Modules that have no weights, or that are loaded from safetensors only."""

_MAX_CONFIG_BYTES: Final = 16 * 2**20

_MAX_TOKENIZER_BYTES: Final = 256 * 2**20
"""A tokenizer with a vocabulary of 262,144 has 33 MiB."""

_MAX_BYTES: Final = {
    ".jinja": _MAX_CONFIG_BYTES,
    ".json": _MAX_TOKENIZER_BYTES,
    ".model": _MAX_TOKENIZER_BYTES,
}
"""Size limits of files that are read completely, by suffix."""

_MAX_SIZE: Final = {
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), 1),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers"), 2_000),
    **dict.fromkeys(("num_labels", "num_attention_heads", "num_key_value_heads"), 10_000),
    **dict.fromkeys(("head_dim", "rotary_dim"), 100_000),
    **dict.fromkeys(("type_vocab_size", "hidden_size", "embedding_size"), 1_000_000),
    **dict.fromkeys(("d_model", "in_features", "out_features"), 1_000_000),
    **dict.fromkeys(("vocab_size", "intermediate_size", "d_ff"), 10_000_000),
    "max_position_embeddings": 100_000_000,
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

_CODE_SETTINGS: Final = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""Settings that make transformers download compiled code if they name a Hub repository."""

_MAX_DEPTH: Final = 8


class Module(NamedTuple):
    """One module of a sentence-transformers model.

    Attributes:
        kind: Name of its class, without the package.
        path: Its folder, relative to the model's; empty for the model's own folder.
    """

    kind: str
    path: str


def validate_folder(folder: Path) -> None:
    """Validate a model folder before its files are loaded.

    Reading a pipe or a device in place of a file would never end, and a configuration with a
    billion layers would allocate all memory.
    """
    entries = list(_entries(folder))
    for path in entries:
        if not (path.is_file() or path.is_dir()) and path.exists():
            message = f"{path} is a pipe, a socket or a device, not a file. Remove it."
            raise ModelLoadError(message)
    files = [path for path in entries if path.is_file()]
    weight_bytes = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    for path in files:
        _validate_size(path, _MAX_BYTES.get(path.suffix))
        if path.name == "config.json":
            validate_config(_read_limited(path, _MAX_CONFIG_BYTES), str(path), weight_bytes)
        elif path.name == "tokenizer.json":
            validate_tokenizer(_read_limited(path, _MAX_TOKENIZER_BYTES), str(path))
        elif path.name.endswith(_INDEX):
            _validate_index(_read_limited(path, _MAX_TOKENIZER_BYTES), str(path))
    if (folder / _ADAPTER[0]).exists() and not (folder / _ADAPTER[1]).exists():
        raise _pickled_adapter(str(folder))


def validate_source(source: str, options: dict[str, Any]) -> None:
    """Validate a model of the Hub; a folder was validated by :func:`validate_folder`.

    Its configuration and lists of files are downloaded first, its weights only afterwards.
    """
    if Path(source).is_absolute():
        return
    config = read_json(source, "config.json", options)
    validate_config(config, f"config.json of {source!r}")
    validate_tokenizer(read_json(source, "tokenizer.json", options), f"tokenizer of {source!r}")
    weights_file = config.get("transformers_weights") if isinstance(config, dict) else None
    for name in (f"model{_INDEX}", weights_file):
        if name is not None and name.endswith(_INDEX):
            _validate_index(read_json(source, name, options), f"{name} of {source!r}")
    has_adapter = read_json(source, _ADAPTER[0], options) is not None
    if has_adapter and find_file(source, _ADAPTER[1], options) is None:
        raise _pickled_adapter(repr(source))


def validate_modules(source: str, options: dict[str, Any]) -> None:
    """Validate that all modules are in the model's folder and have their weights as safetensors."""
    for module in read_modules(source, options):
        if module.kind in _WITHOUT_PICKLES:
            continue
        has_safetensors, has_pickle = (
            find_file(source, f"{module.path}/{name}", options) is not None
            for name in ("model.safetensors", "pytorch_model.bin")
        )
        if has_pickle and not has_safetensors:
            message = (
                f"{source!r} has the weights of its module {module.path!r} as a pickle only "
                "(pytorch_model.bin), which can run code. Save the model again with "
                "sentence-transformers, which writes safetensors."
            )
            raise ModelLoadError(message)


def validate_config(settings: Any, where: str, weight_bytes: int = 0) -> None:  # noqa: ANN401
    """Validate the sizes in a model's configuration and that it loads no code from the Hub.

    ``weight_bytes`` is the size of the model's weights; 0 if unknown.
    """
    for group in _groups(settings):
        _validate_sizes(group, where, weight_bytes)
        weights_file = group.get("transformers_weights")
        if weights_file is not None and not str(weights_file).endswith((".safetensors", _INDEX)):
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


def read_json(source: str, name: str, options: dict[str, Any]) -> Any:  # noqa: ANN401  (any JSON)
    """Return the content of a model's JSON file, or None if there is no such file."""
    file = find_file(source, name, options)
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        message = (
            f"{source!r} cannot be loaded: {name} cannot be read as JSON: {error}. Fix the file, "
            "or remove it."
        )
        raise ModelLoadError(message) from error


def find_file(source: str, name: str, options: dict[str, Any]) -> str | None:
    """Return the path of a model's file, downloaded if needed; None if there is no such file."""
    hub = {option: value for option, value in options.items() if option != "trust_remote_code"}
    file: str | None = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
    return file


def read_modules(source: str, options: dict[str, Any]) -> list[Module]:
    """Return the modules listed in ``modules.json``; most rerankers have no such file."""
    entries = read_json(source, "modules.json", options) or []
    try:
        modules = [Module(entry["type"].rpartition(".")[2], entry["path"]) for entry in entries]
        outside = [module.path for module in modules if not _is_inside(module.path)]
    except (AttributeError, KeyError, TypeError) as error:
        message = f"modules.json of {source!r} does not list modules. Fix the file, or remove it."
        raise ModelLoadError(message) from error
    if outside:
        message = (
            f"modules.json of {source!r} names {outside[0]!r:.80}, which is not within the model's "
            "folder. Nothing outside it is read: do not use this model."
        )
        raise ModelLoadError(message)
    return modules


def is_modular(source: str, options: dict[str, Any]) -> bool:
    """Return whether a model has more than one module, so that its head is a module of its own."""
    return len(read_modules(source, options)) > 1


def model_kind(source: str, options: dict[str, Any]) -> str | None:
    """Return the model type that sentence-transformers saved, such as ``"CrossEncoder"``."""
    settings = read_json(source, _SENTENCE_TRANSFORMERS, options)
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    return kind if isinstance(kind, str) else None


def read_prompts(source: str, options: dict[str, Any]) -> dict[Role, str]:
    """Return the prompts that sentence-transformers saved with a model.

    The prompt named ``"query"``, else the default prompt, is the prefix of queries; the prompt
    named ``"document"`` is the prefix of documents.

    Returns:
        Only the prompts that exist; most models have none.
    """
    prompts, default = _prompt_settings(source, options)
    roles: dict[Role, Any] = {
        "query": prompts.get("query") or prompts.get(default),
        "document": prompts.get("document"),
    }
    return {role: str(prompt) for role, prompt in roles.items() if prompt}


def default_prompt(source: str, options: dict[str, Any]) -> str | None:
    """Return the prompt that sentence-transformers uses by default."""
    prompts, default = _prompt_settings(source, options)
    prompt = prompts.get(default)
    return prompt if isinstance(prompt, str) else None


def smallest_max_seq_length(
    limits: Iterable[tuple[str, Any]], model: str, at_least: int = MIN_MAX_LENGTH
) -> int:
    """Return a model's maximum sequence length: the smallest limit in its files."""
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
    limits = [(name, value, _MAX_SIZE[name]) for name, value in sizes.items()]
    for names, maximum in _WEIGHT_SIZES:
        product = math.prod(sizes.get(name, 0) for name in names)
        allowed = _MAX_WEIGHTS_PER_BYTE * weight_bytes + _ALWAYS_ALLOWED_WEIGHTS
        limit = min(maximum, allowed) if weight_bytes else maximum
        limits.append((" times ".join(names), product, limit))
    for name, value, limit in limits:
        if not 0 <= value <= limit:
            message = (
                f"{name} is {value:.6g} in {where}; it must be from 0 to {limit:.6g} for a model "
                "with these weights. The file is damaged, or does not belong to a model."
            )
            raise ModelLoadError(message)


def _groups(settings: Any, depth: int = 0) -> Iterator[dict[str, Any]]:  # noqa: ANN401  (any JSON)
    """Yield a configuration and the configurations nested in it."""
    if isinstance(settings, dict) and depth <= _MAX_DEPTH:
        yield settings
        for value in settings.values():
            yield from _groups(value, depth + 1)


def _prompt_settings(source: str, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the prompts by name, and the name of the default prompt, empty if there is none."""
    settings = read_json(source, _SENTENCE_TRANSFORMERS, options)
    if settings is None:
        return {}, ""
    prompts, name = settings, ""
    if isinstance(settings, dict):
        prompts, name = settings.get("prompts") or {}, settings.get("default_prompt_name") or ""
    if not isinstance(prompts, dict) or not isinstance(name, str):
        message = (
            f"{_SENTENCE_TRANSFORMERS} of {source!r} cannot be read: it has {prompts!r:.80} as "
            f"prompts and {name!r:.80} as default_prompt_name; they must be an object and one of "
            "its names. Fix the file."
        )
        raise ModelLoadError(message)
    return prompts, name


def _validate_index(index: Any, where: str) -> None:  # noqa: ANN401  (any JSON)
    """Validate that sharded weights are safetensors in the model's own folder.

    transformers would read a file anywhere on the machine, and a file with another suffix as a
    pickle.
    """
    shards = index.get("weight_map") if isinstance(index, dict) else None
    for shard in shards.values() if isinstance(shards, dict) else ():
        is_valid = isinstance(shard, str) and _is_inside(shard) and shard.endswith(".safetensors")
        if not is_valid:
            message = (
                f"{where} names {shard!r:.80}, which is no safetensors file within the model's "
                "folder. Nothing else is read: do not use this model, or save it again with "
                "safe_serialization=True."
            )
            raise ModelLoadError(message)


def _pickled_adapter(where: str) -> ModelLoadError:
    message = (
        f"{where} has {_ADAPTER[0]} and no {_ADAPTER[1]}; a pickle is not read. Merge the adapter "
        "into its model, or save it again with safetensors."
    )
    return ModelLoadError(message)


def _is_inside(path: str) -> bool:
    """Return whether a relative path stays in its folder, on every operating system."""
    for kind in (PurePosixPath(path), PureWindowsPath(path)):
        if kind.is_absolute() or kind.drive or kind.root or ".." in kind.parts:
            return False
    return "\0" not in path


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder and of its direct subfolders."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.iterdir()


def _validate_size(file: Path, maximum: int | None) -> None:
    if maximum is not None and file.stat().st_size > maximum:
        message = (
            f"{file} has {file.stat().st_size} bytes; at most {maximum} are allowed. The file is "
            "damaged, or does not belong to a model: remove it."
        )
        raise ModelLoadError(message)


def _read_limited(file: Path, maximum: int) -> Any:  # noqa: ANN401  (any JSON)
    """Return the content of a JSON file; None if it is invalid, which the loader reports."""
    _validate_size(file, maximum)
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
