"""Backends that record graphs, and a look inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rerank_plugins.backends.torch.graphs import Graphs
from rerank_plugins.backends.torch.model import TorchCrossEncoder
from rerank_plugins.core.config import Dtype, ModelConfig, Optimize
from rerank_plugins.core.types import TextPair
from tests.tiny_models import TEXTS

PAIRS: Final = [TextPair(TEXTS[0], " ".join(TEXTS[:n])) for n in range(7)]


def load(
    folder: Path | str,
    optimize: Optimize = "graphs",
    *,
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> TorchCrossEncoder:
    config = ModelConfig(str(folder), device=device, dtype=dtype, optimize=optimize)
    return TorchCrossEncoder(TorchCrossEncoder.resolve(config))


def scores(backend: TorchCrossEncoder, pairs: list[TextPair]) -> Any:
    return backend.run(backend.prepare(pairs, 100))


def graphs_of(backend: TorchCrossEncoder) -> Graphs:
    assert backend._graphs is not None
    return backend._graphs
