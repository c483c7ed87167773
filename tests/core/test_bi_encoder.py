"""Bi-encoder behavior that does not depend on the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from rerank_plugins import BiEncoder
from rerank_plugins.core.bi_encoder import CHUNK
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.testing import FakeBiEncoder
from tests.helpers.strategies import documents


@given(documents)
def test_one_unit_vector_per_text_in_input_order(texts: list[str]) -> None:
    encoder = BiEncoder(FakeBiEncoder(dimension=32, batch_tokens=20))
    vectors = encoder.encode_document(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(encoder.encode_document([text])[0], vector)


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_every_text_is_encoded_across_chunks(count: int) -> None:
    backend = FakeBiEncoder()
    texts = [f"text number {number}" for number in range(count)]
    vectors = BiEncoder(backend).encode_query(texts, show_progress=False)
    assert vectors.shape == (count, backend.dimension)
    assert sorted(text for batch in backend.batches for text in batch) == sorted(texts)
    if count:
        last = BiEncoder(FakeBiEncoder()).encode_query(texts[-1:])
        np.testing.assert_array_equal(vectors[-1:], last)


def test_each_role_has_its_prompt() -> None:
    backend = FakeBiEncoder()
    encoder = BiEncoder(backend, prompts={"query": "ask: ", "document": "read: "})
    encoder.encode_query(["rain"])
    encoder.encode_document(["rain"])
    assert backend.batches == [["ask: rain"], ["read: rain"]]


async def test_async_equals_sync() -> None:
    encoder = BiEncoder(FakeBiEncoder(), prompts={"query": "ask: "})
    texts = ["rain", "", "snow and wind"]
    np.testing.assert_array_equal(await encoder.aencode_query(texts), encoder.encode_query(texts))
    np.testing.assert_array_equal(
        await encoder.aencode_document(texts), encoder.encode_document(texts)
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "documents is NoneType"),
        (["rain", 5], "document 1 is int"),
    ],
)
def test_texts_are_validated(texts: Any, message: str) -> None:
    backend = FakeBiEncoder()
    for encode in (BiEncoder(backend).encode_query, BiEncoder(backend).encode_document):
        with pytest.raises(InvalidInputError, match=message):
            encode(texts)
    assert backend.batches == []


async def test_one_text_gives_one_vector() -> None:
    encoder = BiEncoder(FakeBiEncoder(), prompts={"query": "ask: "})
    (row,) = encoder.encode_query(["rain"])
    np.testing.assert_array_equal(encoder.encode_query("rain"), row)
    np.testing.assert_array_equal(await encoder.aencode_query("rain"), row)
    assert encoder.encode_document("rain").shape == (encoder.dimension,)


def test_the_progress_bar_is_written_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = BiEncoder(FakeBiEncoder())
    encoder.encode_query(["rain"] * 3, show_progress=False)
    encoder.encode_query(["rain"] * 3)
    assert capsys.readouterr() == ("", "")
    encoder.encode_document(["rain"] * 3, show_progress=True)
    output, bar = capsys.readouterr()
    assert output == ""
    assert "Encoding (document)" in bar
    assert "3/3" in bar


def test_dimension_and_warm_up() -> None:
    encoder = BiEncoder(FakeBiEncoder(dimension=7))
    assert encoder.warm_up() is encoder
    assert encoder.dimension == 7
