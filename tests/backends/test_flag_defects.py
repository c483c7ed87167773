"""Known defects of FlagEmbedding that the flag backend avoids."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerank_plugins import FlagSpec, Reranker
from rerank_plugins.errors import InferenceError
from rerank_plugins.types import TextPair
from tests.helpers.families import sentence_transformers_scores
from tests.helpers.flag_reference import flag_scores
from tests.helpers.tiny_flag import save_layerwise, save_lightweight
from tests.helpers.tiny_models import TEXTS, save_reranker

LONG = " ".join(TEXTS * 20)

needs_flag = pytest.mark.skipif(
    find_spec("FlagEmbedding") is None, reason="the extra flag is not installed"
)


@pytest.fixture
def reranker(tmp_path: Path) -> Reranker:
    return Reranker(FlagSpec(str(save_lightweight(tmp_path))), dtype="float32", activation="none")


def test_no_batch_is_computed_twice(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = reranker.engine.backend
    original, batch_sizes = backend._model, []

    def counted(batch: Any) -> Any:
        batch_sizes.append(len(batch))
        return original(batch)

    monkeypatch.setattr(backend, "_model", counted)
    reranker.rank("rain", TEXTS)
    assert sum(batch_sizes) == len(TEXTS)


def test_an_error_is_raised_without_many_retries(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlagEmbedding takes any RuntimeError for a lack of memory, and retries ten times."""
    calls: list[int] = []

    def broken(batch: Any) -> Any:
        calls.append(len(batch))
        message = "the driver is gone"
        raise RuntimeError(message)

    monkeypatch.setattr(reranker.engine.backend, "_model", broken)
    with pytest.raises(InferenceError, match="the driver is gone"):
        reranker.rank("rain", ["a"])
    assert len(calls) <= 2


def test_a_document_is_truncated_before_its_query(reranker: Reranker) -> None:
    backend = reranker.engine.backend
    query = " ".join(TEXTS[:3])
    short, long, both = backend.prepare(
        [TextPair(query, "a"), TextPair(query, LONG), TextPair(LONG, LONG)]
    )
    assert [item.truncated for item in (short, long, both)] == [False, True, True]
    assert long.payload.head == short.payload.head
    assert both.tokens == backend.identity.max_length


def test_threads_with_different_max_lengths_do_not_interfere(tmp_path: Path) -> None:
    folder = save_layerwise(tmp_path)
    lengths = [150, 200, 300, 400]
    rerankers = [
        Reranker(FlagSpec(str(folder)), dtype="float32", max_length=length, activation="none")
        for length in lengths
    ]
    documents = [LONG[:end] for end in (50, 400, 900, 2_000)]
    single = [
        [document.raw_score for document in reranker.rank("rain", documents)]
        for reranker in rerankers
    ]
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(rerankers[n % 4].rank, "rain", documents) for n in range(24)]
        for number, future in enumerate(futures):
            scores = [document.raw_score for document in future.result()]
            np.testing.assert_allclose(scores, single[number % 4], rtol=0, atol=1e-4)


@needs_flag
@pytest.mark.filterwarnings("ignore")
def test_the_encoder_starts_no_process(tmp_path: Path) -> None:
    folder = save_reranker("roberta", tmp_path)
    model = FlagSpec(str(folder), variant="encoder-only")
    reranker = Reranker(model, dtype="float32", device="cpu", activation="none")
    pairs = [("who wrote faust", text) for text in TEXTS]
    from FlagEmbedding import FlagReranker  # noqa: PLC0415

    np.testing.assert_allclose(
        reranker.score(pairs), flag_scores(FlagReranker, folder, pairs), rtol=0, atol=1e-5
    )
    assert multiprocessing.active_children() == []


@needs_flag
@pytest.mark.filterwarnings("ignore")
def test_texts_are_not_decoded_and_tokenized_again(tmp_path: Path) -> None:
    """FlagEmbedding scores changed texts if the tokenizer does not decode exactly."""
    folder = save_reranker("xlm-roberta", tmp_path)
    pairs = [("who wrote faust", text) for text in TEXTS]
    expected = sentence_transformers_scores(folder, pairs)
    model = FlagSpec(str(folder), variant="encoder-only")
    scores = Reranker(model, dtype="float32", activation="none").score(pairs)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    from FlagEmbedding import FlagReranker  # noqa: PLC0415

    assert np.abs(flag_scores(FlagReranker, folder, pairs) - expected).max() > 1e-3
