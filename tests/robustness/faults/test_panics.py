"""Tokenizers that panic: an error of Rust that is no ``Exception`` in Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.errors import InferenceError, ModelLoadError
from tests.helpers.tiny_models import save_reranker

EMPTY = {"type": "Replace", "pattern": {"Regex": ""}, "content": "b"}
PANICS = {"type": "Sequence", "normalizers": [EMPTY, {"type": "ByteLevel"}]}
"""Two normalizers that make tokenizers 0.23 panic in this order."""


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker("bert", tmp_path_factory.mktemp("saved"))


def copy_with_normalizer(saved_model: Path, folder: Path, normalizer: object) -> Path:
    shutil.copytree(saved_model, folder)
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**settings, "normalizer": normalizer}), "utf-8")
    return folder


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_a_model_whose_tokenizer_panics_is_refused(
    saved_model: Path, tmp_path: Path, cls: type[Reranker | BiEncoder]
) -> None:
    with pytest.raises(ModelLoadError, match="index out of bounds"):
        cls(copy_with_normalizer(saved_model, tmp_path / "model", PANICS)).warm_up()


def test_a_panic_fails_only_its_request(saved_model: Path, tmp_path: Path) -> None:
    """The tokenizer panics for one character, and the threads of the engine continue."""
    rule = {"type": "Replace", "pattern": {"String": "\u20ac"}, "content": ""}
    reranker = Reranker(
        copy_with_normalizer(saved_model, tmp_path / "model", rule), dtype="float32"
    )
    scores = reranker.score([("rain", "water")])
    backend: Any = reranker.engine.backend
    tokenizer = backend._pairs._tokenizer

    class Panicking:
        def encode_batch_fast(self, texts: list[str], **options: bool) -> object:
            if any("\u20ac" in text for text in texts):
                raise PanicException
            return rust.encode_batch_fast(texts, **options)

    rust, tokenizer._tokenizer = tokenizer._tokenizer, Panicking()
    threads = set(reranker.engine._scheduler.threads)
    with pytest.raises(InferenceError, match="the tokenizer panicked"):
        reranker.score([("rain", "5 \u20ac")])
    assert reranker.score([("rain", "water")]) == scores
    assert set(reranker.engine._scheduler.threads) == threads


class PanicException(BaseException):
    """Exception of pyo3 for a panic."""
