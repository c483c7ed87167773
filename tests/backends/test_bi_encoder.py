"""Embedding parity with sentence-transformers, normalized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from rerank_plugins import BiEncoder
from rerank_plugins.backends.hub import bi_encoder_folder
from rerank_plugins.engine.backend import RoleText
from rerank_plugins.types import FloatArray
from tests.helpers.tiny_models import TEXTS, WIDTHS, _wordpiece

DOCUMENTS = [
    *TEXTS,
    "",
    "   ",
    "rain 🌧 дождь 雨 \u202eשלג\x00 fällt",
    "who wrote faust " * 200,
]
PROMPTS: dict[str, dict[str, Any]] = {
    "none": {},
    "both": {"prompts": {"query": "find this: ", "document": "read this: "}},
    "query only": {"prompts": {"query": "find this: "}},
    "passage": {"prompts": {"query": "find this: ", "passage": "read this: "}},
    "default": {
        "prompts": {"query": "find this: ", "other": "something else: "},
        "default_prompt_name": "other",
    },
}


def save_bi_encoder(folder: Path, settings: dict[str, Any]) -> Path:
    """Save a tiny random bi-encoder with prompts; return its folder."""
    torch.manual_seed(7)
    widths: dict[str, Any] = {**WIDTHS, "initializer_range": 0.3}
    encoder = folder / "encoder"
    transformers.BertModel(transformers.BertConfig(**widths)).save_pretrained(encoder)
    _wordpiece().save_pretrained(encoder)
    words = Transformer(str(encoder))
    model = SentenceTransformer(modules=[words, Pooling(WIDTHS["hidden_size"])], device="cpu")
    model.save(str(folder / "model"))
    file = folder / "model" / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder / "model"


@pytest.fixture(params=PROMPTS, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("bi"), PROMPTS[request.param])


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("prompted"), PROMPTS["both"])


def reference(folder: Path, **kwargs: Any) -> tuple[FloatArray, FloatArray]:
    """Return sentence-transformers' embeddings of the documents, as queries and as documents."""
    peer = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    options = {"normalize_embeddings": True, "show_progress_bar": False, **kwargs}
    queries = peer.encode_query(DOCUMENTS, **options)
    return np.asarray(queries), np.asarray(peer.encode_document(DOCUMENTS, **options))


def assert_close(vectors: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


def test_embeddings_equal_the_reference_with_the_models_prompts(folder: Path) -> None:
    encoder = BiEncoder(folder, dtype="float32")
    queries, documents = reference(folder)
    assert_close(encoder.encode_query(DOCUMENTS), queries)
    assert_close(encoder.encode_document(DOCUMENTS), documents)


def test_prompts_change_embeddings(prompted: Path) -> None:
    queries, documents = reference(prompted)
    plain, _ = reference(prompted, prompt="")
    assert np.abs(queries - documents).max() > 0.01
    assert np.abs(queries - plain).max() > 0.01


def test_prompts_can_be_overridden(prompted: Path) -> None:
    encoder = BiEncoder(prompted, dtype="float32", prompts={"query": "rain: ", "document": ""})
    assert_close(encoder.encode_query(DOCUMENTS), reference(prompted, prompt="rain: ")[0])
    assert_close(encoder.encode_document(DOCUMENTS), reference(prompted, prompt="")[1])


def test_an_invalid_prompt_is_read_like_an_invalid_text(prompted: Path) -> None:
    invalid = BiEncoder(prompted, dtype="float32", prompts={"query": "a \ud800: "})
    replaced = BiEncoder(prompted, dtype="float32", prompts={"query": "a \ufffd: "})
    assert_close(invalid.encode_query(["rain"]), replaced.encode_query(["rain"]))


def test_the_embedded_model_equals_the_reference() -> None:
    encoder = BiEncoder(dtype="float32")
    queries, documents = reference(bi_encoder_folder())
    assert_close(encoder.encode_query(DOCUMENTS), queries)
    assert_close(encoder.encode_document(DOCUMENTS), documents)
    assert encoder.dimension == 384


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_vectors_have_unit_length_in_every_data_type(prompted: Path, dtype: Any) -> None:
    vectors = BiEncoder(prompted, dtype=dtype).encode_document(DOCUMENTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_texts_give_no_rows(prompted: Path) -> None:
    encoder = BiEncoder(prompted, dtype="float32")
    for vectors in (encoder.encode_query([]), encoder.encode_document([])):
        assert vectors.shape == (0, encoder.dimension)
        assert vectors.dtype == np.float32


def test_max_length_truncates_prompt_and_text_together(prompted: Path) -> None:
    encoder = BiEncoder(prompted, dtype="float32", max_length=20)
    peer = SentenceTransformer(str(prompted), device="cpu")
    peer.max_seq_length = 20
    expected = np.asarray(peer.encode_query(DOCUMENTS, normalize_embeddings=True))
    assert_close(encoder.encode_query(DOCUMENTS), expected)
    short, long = encoder.engine.backend.prepare(
        [RoleText("rain", "query"), RoleText("rain " * 100, "query")], 20
    )
    assert (short.truncated, long.truncated, long.tokens) == (False, True, 20)


def test_max_length_is_limited_by_the_model(prompted: Path) -> None:
    assert BiEncoder(prompted, max_length=100_000).engine.backend.identity.max_length == 512


def test_an_embedding_does_not_depend_on_its_batch(prompted: Path) -> None:
    encoder = BiEncoder(prompted, dtype="float32")
    together = encoder.encode_document(DOCUMENTS)
    single = np.concatenate([encoder.encode_document([text]) for text in DOCUMENTS])
    reversed_order = encoder.encode_document(DOCUMENTS[::-1])[::-1]
    assert_close(together, single)
    assert_close(reversed_order, single)
