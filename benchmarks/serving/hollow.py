"""Our server with a model that reads texts as ours does and then computes nothing.

``python -m benchmarks.serving.hollow PORT``: what is left is the process's own work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import Prepared
from rerank_plugins.serving import ServerSettings, create_app, serve
from rerank_plugins.types import FloatArray


class Hollow(TorchCrossEncoder):
    """Tokenises, and scores everything 0."""

    def run(self, batch: Sequence[Prepared]) -> FloatArray:
        """Return zeros."""
        return np.zeros(len(batch), dtype=np.float32)


if __name__ == "__main__":
    model = Hollow(Hollow.resolve(ModelConfig()))
    serve(create_app(ServerSettings(model=model, embedding_model=None)), port=int(sys.argv[1]))
