"""Base of the LlamaIndex components: pickling and model names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseComponent


class ConfigComponent(BaseComponent):
    """A component whose pickle contains its settings only.

    LlamaIndex's own pickling leaves out, with a warning, what cannot be pickled, and the copy
    then uses defaults, such as another model. Here a model object that cannot be pickled is an
    error.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings; callback handlers belong to the process and stay in it."""
        state: dict[str, Any] = super(BaseComponent, self).__getstate__()
        settings = {k: v for k, v in state["__dict__"].items() if k != "callback_manager"}
        return {**state, "__dict__": settings}


def model_name(model: Any) -> str:  # noqa: ANN401  (a name, a folder or a backend object)
    """Return the name of a model in events and traces."""
    if isinstance(model, (str, Path)):
        return str(model)
    identity = getattr(model, "identity", None)
    return type(model).__name__ if identity is None else str(identity.model)
