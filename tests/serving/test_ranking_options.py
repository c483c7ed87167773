"""Ranking options of the core as server settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rerank_plugins import BiEncoder, Dedup, Fusion, Reranker, Windows
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.serving import ServerSettings
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from tests.helpers.engines import FaultyCrossEncoder
from tests.serving.live import live

QUERY = "rain"
TEXTS = ["snow", "sun " * 30 + "rain", "rain", "rain"]


def rerank(settings: ServerSettings, texts: list[str], **headers: str) -> httpx.Response:
    with live(settings) as server:
        body = {"query": QUERY, "documents": texts}
        return httpx.post(f"{server.url}/v2/rerank", json=body, headers=headers)


@pytest.mark.parametrize(
    "options",
    [
        {"long_documents": Windows(overlap=0), "max_length": None},
        {"fusion": Fusion("weighted", 0.2)},
        {"activation": "none", "score_threshold": 1.0},
        {"dedup": Dedup(0.99, model=BiEncoder(FakeBiEncoder()))},
        {"prompts": {"query": "rain snow ", "document": "sun "}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_server_ranks_as_a_reranker_with_the_same_settings(options: dict[str, Any]) -> None:
    fake = FakeCrossEncoder(max_length=24)
    expected = Reranker(fake, **options).rank(QUERY, TEXTS)
    plain = Reranker(fake).rank(QUERY, TEXTS)
    scores = [(document.index, document.relevance_score) for document in expected]
    assert scores != [(document.index, document.relevance_score) for document in plain]
    settings = ServerSettings(model=fake, embedding_model=None, **options)
    results = rerank(settings, TEXTS).json()["results"]
    assert [(result["index"], result["relevance_score"]) for result in results] == scores


def test_a_calibrator_file(tmp_path: Path) -> None:
    fake = FakeCrossEncoder()
    file = tmp_path / "calibrator.json"
    model = fake.identity
    fitted = Calibrator.fit(np.linspace(-3, 3, 40), np.arange(40) > 20, model=model)
    fitted.save(file)
    settings = ServerSettings(model=fake, embedding_model=None, activation=file)
    results = rerank(settings, TEXTS).json()["results"]
    raw = {document.index: document.raw_score for document in Reranker(fake).rank(QUERY, TEXTS)}
    for result in results:
        assert result["relevance_score"] == fitted([raw[result["index"]]])[0]


def test_the_deadlines_of_the_server_and_of_the_request() -> None:
    slow = FaultyCrossEncoder(delay_s=0.2, batch_tokens=8)
    settings = ServerSettings(model=slow, embedding_model=None, deadline_ms=1_000)
    texts = [f"rain {number}" for number in range(100)]
    response = rerank(settings, texts)
    assert response.headers["X-Ranking-Status"] == "partial"
    assert 0 < len(response.json()["results"]) < 100
    none = rerank(settings, texts, **{"X-Deadline-Ms": "1"})
    assert none.status_code == 504
    assert "not done within 1.0 ms" in none.text


def test_fewer_chunks_than_windows_are_rejected() -> None:
    body = {"query": QUERY, "documents": TEXTS, "max_chunks_per_doc": 4}
    settings = ServerSettings(
        model=FakeCrossEncoder(),
        embedding_model=None,
        long_documents=Windows(max_windows=8),
    )
    with live(settings) as server:
        rejected = httpx.post(f"{server.url}/v1/rerank", json=body)
        accepted = httpx.post(f"{server.url}/v1/rerank", json=body | {"max_chunks_per_doc": 8})
    assert (rejected.status_code, accepted.status_code) == (422, 200)
    assert "scores up to 8 windows" in rejected.text


def test_invalid_ranking_options_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match="weight is 2"):
        ServerSettings(fusion={"method": "weighted", "weight": 2})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["top_n", "on_error", "priority", "when_full"])
def test_settings_of_a_request_are_no_settings_of_a_server(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no setting '{name}'"):
        ServerSettings(**{name: getattr(Reranker(), name)})
