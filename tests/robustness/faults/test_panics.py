"""A tokenizer that panics, which is none of Python's errors: an error for who asked."""

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
"""What tokenizers 0.23 cannot do one after the other."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker("bert", tmp_path_factory.mktemp("made"))


def spoil(made: Path, folder: Path, normalizer: object) -> Path:
    shutil.copytree(made, folder)
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**settings, "normalizer": normalizer}), "utf-8")
    return folder


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_a_panic_of_a_tokenizer_refuses_the_model(
    made: Path, tmp_path: Path, cls: type[Reranker | BiEncoder]
) -> None:
    with pytest.raises(ModelLoadError, match="index out of bounds"):
        cls(spoil(made, tmp_path / "model", PANICS)).warm_up()


def test_a_panic_reaches_only_its_request(made: Path, tmp_path: Path) -> None:
    """A tokenizer that panics at one letter only; the engine goes on with the same threads."""
    rule = {"type": "Replace", "pattern": {"String": "\u20ac"}, "content": ""}
    reranker = Reranker(spoil(made, tmp_path / "model", rule), dtype="float32")
    wanted = reranker.score([("rain", "water")])
    backend: Any = reranker.engine.backend
    tokenizer = backend._pairs._tokenizer

    class Panicking:
        def encode_batch_fast(self, texts: list[str], **options: bool) -> object:
            if any("\u20ac" in text for text in texts):
                raise PanicException
            return rust.encode_batch_fast(texts, **options)

    rust, tokenizer._tokenizer = tokenizer._tokenizer, Panicking()
    threads = set(reranker.engine._scheduler.threads)
    with pytest.raises(InferenceError, match="the tokenizer broke down"):
        reranker.score([("rain", "5 \u20ac")])
    assert reranker.score([("rain", "water")]) == wanted
    assert set(reranker.engine._scheduler.threads) == threads


class PanicException(BaseException):
    """As pyo3 raises it."""
