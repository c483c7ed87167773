"""What the postprocessor and the embedding have in common as LlamaIndex components."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseComponent


class ConfigComponent(BaseComponent):
    """A component whose pickle is its settings and nothing else.

    LlamaIndex's own pickling leaves out, with a warning, whatever cannot be pickled, and the
    copy then runs on defaults: on another model. Here such a model object is an error.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings; callback handlers belong to the process and stay in it."""
        state: dict[str, Any] = super(BaseComponent, self).__getstate__()
        settings = {k: v for k, v in state["__dict__"].items() if k != "callback_manager"}
        return {**state, "__dict__": settings}


def model_name(model: Any) -> str:  # noqa: ANN401  (a name, a folder or a backend object)
    """Return what to call a model in events and traces."""
    if isinstance(model, (str, Path)):
        return str(model)
    identity = getattr(model, "identity", None)
    return type(model).__name__ if identity is None else str(identity.model)
