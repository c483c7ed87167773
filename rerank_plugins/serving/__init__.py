"""HTTP server for reranking and embeddings (extra ``serve``).

Example:
    >>> from rerank_plugins.serving import ServerSettings, create_app
    >>> app = create_app(ServerSettings(model="mini"))  # an ASGI application
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.serving.app import create_app
    from rerank_plugins.serving.server import serve
    from rerank_plugins.serving.settings import ServerSettings

__all__ = ["ServerSettings", "create_app", "serve"]

_HOMES = {
    "ServerSettings": "rerank_plugins.serving.settings",
    "create_app": "rerank_plugins.serving.app",
    "serve": "rerank_plugins.serving.server",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES, needs=("fastapi", "serve"))
