"""Truncated and quantized embeddings, compared with sentence-transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from rerank_plugins import BiEncoder, BiEncoderScorer, Dedup, Reranker
from rerank_plugins.core.quantization import EmbeddingFormat, quantization_ranges
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.langchain import BiEncoderEmbeddings
from rerank_plugins.llama_index import BiEncoderEmbedding
from rerank_plugins.testing import FakeBiEncoder

TEXTS = [f"word{number} and word{number % 7}" for number in range(150)]


@pytest.fixture(scope="module")
def full() -> Any:
    return BiEncoder(FakeBiEncoder()).encode_document(TEXTS)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantized_embeddings_equal_the_reference(full: Any, precision: Any) -> None:
    ranges = quantization_ranges(full) if precision.endswith("int8") else None
    encoder = BiEncoder(FakeBiEncoder(), precision=precision, ranges=ranges)
    embeddings = encoder.encode_document(TEXTS)
    expected = quantize_embeddings(full, precision=precision, ranges=ranges)
    assert embeddings.dtype == expected.dtype  # type: ignore[union-attr]
    np.testing.assert_array_equal(embeddings, expected)
    assert encoder.encode_query([]).shape == (0, embeddings.shape[1])


def test_truncated_vectors_are_unit_vectors_of_the_first_dimensions(full: Any) -> None:
    encoder = BiEncoder(FakeBiEncoder(), truncate_dim=24)
    embeddings = encoder.encode_document(TEXTS)
    first = full[:, :24]
    np.testing.assert_allclose(
        embeddings, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-6
    )
    assert encoder.dimension == 24
    short = BiEncoderScorer(encoder, dict(zip(TEXTS, embeddings, strict=True)))
    ranking = Reranker(short).rank(TEXTS[3], TEXTS[:9])
    cosines = {document.index: document.raw_score for document in ranking}
    np.testing.assert_allclose(
        [cosines[row] for row in range(9)], embeddings[:9] @ embeddings[3], atol=1e-6
    )
    assert ranking.stats.cache_hits == 9


def test_vectors_of_different_calls_are_comparable(full: Any) -> None:
    """sentence-transformers computes ranges per call, so its results depend on the other texts."""
    ranges = BiEncoder(FakeBiEncoder()).quantization_ranges(TEXTS)
    encoder = BiEncoder(FakeBiEncoder(), precision="int8", ranges=ranges)
    together = encoder.encode_document(TEXTS)
    np.testing.assert_array_equal(together[:3], encoder.encode_document(TEXTS[:3]))
    reference = [quantize_embeddings(full[rows], precision="int8") for rows in ([5, 1], [5, 5])]
    assert (reference[0][0] != reference[1][0]).any()


def test_the_adapters_return_lists_of_floats() -> None:
    fake = FakeBiEncoder()
    vectors = [
        BiEncoderEmbeddings(model=fake, precision="ubinary").embed_query("rain"),
        BiEncoderEmbedding(model=fake, precision="ubinary").get_query_embedding("rain"),
    ]
    assert vectors[0] == vectors[1]
    assert len(vectors[0]) == fake.dimension // 8
    assert all(isinstance(number, float) and number.is_integer() for number in vectors[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"truncate_dim": True}, "truncate_dim is True"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"precision": "int8"}, "quantization_ranges"),
        ({"precision": "binary", "ranges": [[0.0], [1.0]]}, "ranges are for precision"),
        ({"precision": "int8", "ranges": [[1.0], [0.0]]}, r"ranges has shape \(2, 1\)"),
        ({"precision": "int8", "ranges": "wide"}, "ranges has shape"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EmbeddingFormat(**settings)


def test_settings_are_checked_against_the_loaded_model() -> None:
    fake = FakeBiEncoder()
    with pytest.raises(ConfigurationError, match="the model has 64 dimensions"):
        BiEncoder(fake, truncate_dim=65).encode_query(["rain"])
    ranges = [[0.0] * 3, [1.0] * 3]
    with pytest.raises(ConfigurationError, match="ranges are of 3 dimensions"):
        BiEncoder(fake, precision="int8", ranges=ranges).encode_query(["rain"])
    with pytest.raises(InvalidInputError, match="at least 2 texts"):
        BiEncoder(fake).quantization_ranges(["rain"])
    with pytest.raises(ConfigurationError, match="cosines need"):
        Reranker(dedup=Dedup(0.9, model=BiEncoder(fake, precision="binary"))).rank(
            "rain", ["a", "b"]
        )
