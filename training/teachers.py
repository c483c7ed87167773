"""The models that the lists are made with, in the quickest form that this machine runs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.config import MINI


def quickest() -> dict[str, Any]:
    """Return the settings of a backend: int8 on a CPU, where OpenVINO is installed."""
    if torch.cuda.is_available() or find_spec("openvino") is None or find_spec("nncf") is None:
        return {}
    return {"backend": "openvino", "dtype": "int8"}


def bi_encoder(cache: Path | None = None) -> BiEncoder:
    """Return all-MiniLM-L6-v2; a folder keeps its vectors for the next time."""
    return BiEncoder(MINI, **quickest(), cache_dir=cache)


def reader() -> Reranker:
    """Return the embedded cross-encoder, which finds the window that answers."""
    return Reranker(MINI, **quickest())
