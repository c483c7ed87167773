"""Parity of bi-encoders of every family with sentence-transformers, prompts included."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from rerank_plugins import BiEncoder
from rerank_plugins.types import FloatArray
from tests.helpers.tiny_bi_encoders import save_dense
from tests.helpers.tiny_models import TEXTS

DOCUMENTS = [*TEXTS, "", "rain 🌧 дождь 雨 \u202eשלג", "who wrote faust " * 200]
BGE = "Represent this sentence for searching relevant passages: "
QWEN3 = "Instruct: Given a web search query, retrieve relevant passages\nQuery:"


def reference(folder: Path, prompt: str = "", dimensions: int | None = None) -> FloatArray:
    peer = SentenceTransformer(
        str(folder),
        device="cpu",
        model_kwargs={"dtype": torch.float32},
        truncate_dim=dimensions,
    )
    vectors = peer.encode(DOCUMENTS, prompt=prompt, normalize_embeddings=True, batch_size=1)
    return np.asarray(vectors, dtype=np.float32)


@pytest.mark.parametrize(
    "family",
    [
        ("bert", "bge-small-en-v1.5", "cls", None, BGE, ""),
        ("bert", "e5-small-v2", "mean", None, "query: ", "passage: "),
        ("xlm-roberta", "multilingual-e5-base", "mean", None, "query: ", "passage: "),
        ("bert", "all-MiniLM-L6-v2", "mean", None, "", ""),
        ("modernbert", "gte-modernbert-base", "cls", None, "", ""),
        ("xlm-roberta", "bge-m3", "cls", None, "", ""),
        ("qwen3", "Qwen3-Embedding-0.6B", "lasttoken", {"query": QWEN3}, QWEN3, ""),
        ("bert", "e5-small", "mean", {"query": "own: ", "document": ""}, "own: ", ""),
    ],
)
def test_prompts_of_the_family_are_used(family: tuple[Any, ...], tmp_path: Path) -> None:
    architecture, name, pooling, prompts, query, document = family
    folder = save_dense(architecture, tmp_path, pooling=pooling, prompts=prompts, name=name)
    encoder = BiEncoder(folder, dtype="float32")
    queries, documents = encoder.encode_query(DOCUMENTS), encoder.encode_document(DOCUMENTS)
    np.testing.assert_allclose(queries, reference(folder, query), rtol=0, atol=1e-5)
    np.testing.assert_allclose(documents, reference(folder, document), rtol=0, atol=1e-5)


def test_truncated_dimensions_equal_the_reference(tmp_path: Path) -> None:
    folder = save_dense("bert", tmp_path)
    vectors = BiEncoder(folder, dtype="float32", truncate_dim=12).encode_document(DOCUMENTS)
    np.testing.assert_allclose(vectors, reference(folder, "", 12), rtol=0, atol=1e-5)


@pytest.mark.skipif(find_spec("FlagEmbedding") is None, reason="the extra flag is not installed")
@pytest.mark.filterwarnings("ignore")  # warnings of the imports of FlagEmbedding
def test_flag_bge_m3_equals_sentence_transformers(tmp_path: Path) -> None:
    folder = save_dense("xlm-roberta", tmp_path, pooling="cls")
    encoder = BiEncoder(folder, backend="flag", dtype="float32")
    assert encoder.engine.backend.identity.backend == "flag"
    vectors = encoder.encode_document(DOCUMENTS)
    np.testing.assert_allclose(vectors, reference(folder), rtol=0, atol=1e-5)
