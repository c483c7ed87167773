"""The settings files beside a model's weights, read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from transformers.utils.hub import cached_file

from rerank_plugins.backends._folder import ADAPTER, INDEX, check_index, pickled_adapter, within
from rerank_plugins.backends._growth import check_tokenizer
from rerank_plugins.backends._sizes import check_settings
from rerank_plugins.errors import ModelLoadError

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
            :func:`~rerank_plugins.backends._loading.hub_options`.

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


def check_source(source: str, options: dict[str, Any]) -> None:
    """Check a model of the hub as :func:`~rerank_plugins.backends._folder.check_folder` a folder.

    Its settings and its list of files are had first, its weights only after that.

    Raises:
        ModelLoadError: If its sizes are absurd, or its weights are not all safetensors of its own.
    """
    if Path(source).is_absolute():  # it was checked when it was found
        return
    settings = read_json(source, "config.json", options)
    check_settings(settings, f"config.json of {source!r}")
    check_tokenizer(read_json(source, "tokenizer.json", options), f"tokenizer of {source!r}")
    own = settings.get("transformers_weights") if isinstance(settings, dict) else None
    for name in (f"model{INDEX}", own):
        if name is not None and name.endswith(INDEX):
            check_index(read_json(source, name, options), f"{name} of {source!r}")
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


def check_modules(source: str, options: dict[str, Any]) -> None:
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
