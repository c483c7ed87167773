"""The settings files beside a model's weights, read as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from transformers.utils.hub import cached_file

from rerank_plugins.errors import ModelLoadError

_SETTINGS: Final = "config_sentence_transformers.json"


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


def read_modules(source: str, options: dict[str, Any]) -> list[Part]:
    """Return the modules that ``modules.json`` lists; most rerankers have none.

    Raises:
        ModelLoadError: If the file is not what sentence-transformers writes.
    """
    listed = read_json(source, "modules.json", options) or []
    try:
        return [Part(one["type"].rpartition(".")[2], one["path"]) for one in listed]
    except (AttributeError, KeyError, TypeError) as error:
        message = f"modules.json of {source!r} does not list modules. Mend it, or remove it."
        raise ModelLoadError(message) from error


def is_modular(source: str, options: dict[str, Any]) -> bool:
    """Return whether a model has more than one module, so that its head is not its own."""
    return len(read_modules(source, options)) > 1


def model_kind(source: str, options: dict[str, Any]) -> str | None:
    """Return what a model was saved as by sentence-transformers, such as ``"CrossEncoder"``."""
    settings = read_json(source, _SETTINGS, options)
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    return kind if isinstance(kind, str) else None


def default_prompt(source: str, options: dict[str, Any]) -> str | None:
    """Return the prompt that sentence-transformers uses where none is asked for."""
    settings = read_json(source, _SETTINGS, options)
    if not isinstance(settings, dict):
        return None
    prompts = settings.get("prompts") or {}
    prompt = prompts.get(settings.get("default_prompt_name") or "")
    return prompt if isinstance(prompt, str) else None
