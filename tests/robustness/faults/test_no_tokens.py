"""Pairs without tokens after normalization."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rerank_plugins import Reranker
from rerank_plugins.errors import InvalidInputError
from tests.helpers.tiny_decoders import save_classifier


def test_a_pair_without_tokens_is_an_invalid_input(tmp_path: Path) -> None:
    """A decoder without a prompt adds no tokens to a pair."""
    folder = save_classifier("qwen3", tmp_path)
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text("utf-8"))
    settings["normalizer"] = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}
    file.write_text(json.dumps(settings), "utf-8")
    with Reranker(folder, backend="decoder", device="cpu", dtype="float32") as reranker:
        with pytest.raises(InvalidInputError, match="have no tokens"):
            reranker.rank("\u200b", ["rain", ""])
        assert np.isfinite(reranker.score([("\u200b", "rain"), ("rain", "")])).all()
