"""Ray Serve application and Ray Data batch reranking (extra ``ray``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._lazy import lazy_names

if TYPE_CHECKING:
    from rerank_plugins.ray.data import rerank_dataset
    from rerank_plugins.ray.serve import build_app
    from rerank_plugins.ray.settings import RayServeSettings

__all__ = ["RayServeSettings", "build_app", "rerank_dataset"]

_HOMES = {
    "RayServeSettings": "rerank_plugins.ray.settings",
    "build_app": "rerank_plugins.ray.serve",
    "rerank_dataset": "rerank_plugins.ray.data",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES, needs=("ray", "ray"))
