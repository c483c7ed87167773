"""Prompts that a cross-encoder's own configuration asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from transformers.utils.hub import cached_file

from rerank_plugins.core.protocols import Role
from rerank_plugins.errors import ModelLoadError

_FILE: Final = "config_sentence_transformers.json"


def own_prompts(source: str, options: dict[str, Any]) -> dict[Role, str]:
    """Read the prompts that sentence-transformers keeps beside a model.

    Its prompt of the name ``"query"``, else its default one, goes before queries; the one of
    the name ``"document"`` before documents.

    Args:
        source: Folder or hub name.
        options: Where the hub's files are; see
            :func:`~rerank_plugins.backends._loading.hub_options`.

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
