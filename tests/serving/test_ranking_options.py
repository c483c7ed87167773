"""The core's options as settings of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.serving import ServerSettings, create_app
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from tests.helpers.engines import FaultyCrossEncoder
from tests.serving.live import live

QUERY = "rain"
TEXTS = ["snow", "sun " * 30 + "rain", "rain", "rain"]


def ask(settings: ServerSettings, texts: list[str], **headers: str) -> httpx.Response:
    with live(settings) as server:
        body = {"query": QUERY, "documents": texts}
        return httpx.post(f"{server.url}/v2/rerank", json=body, headers=headers)


@pytest.mark.parametrize(
    "options",
    [
        {"long_documents": "windows", "window_overlap": 0, "max_length": None},
        {"fusion": "weighted", "fusion_weight": 0.2},
        {"activation": "none", "score_threshold": 1.0},
        {"drop_similar": 0.99, "similarity_model": BiEncoder(FakeBiEncoder())},
        {"query_prompt": "rain snow ", "document_prompt": "sun "},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_server_ranks_as_a_reranker_with_the_same_settings(options: dict[str, Any]) -> None:
    fake = FakeCrossEncoder(max_length=24)
    expected = Reranker(fake, **options).rank(QUERY, TEXTS)
    plain = Reranker(fake).rank(QUERY, TEXTS)
    shown = [(one.index, one.relevance_score) for one in expected]
    assert shown != [(one.index, one.relevance_score) for one in plain]
    answer = ask(ServerSettings(fake, None, **options), TEXTS).json()
    assert [(one["index"], one["relevance_score"]) for one in answer["results"]] == shown


def test_a_calibrators_file(tmp_path: Path) -> None:
    fake = FakeCrossEncoder()
    file = tmp_path / "calibrator.json"
    model = fake.identity
    fitted = Calibrator.fit(np.linspace(-3, 3, 40), np.arange(40) > 20, model=model)
    fitted.save(file)
    results = ask(ServerSettings(fake, None, calibrator=file), TEXTS).json()["results"]
    raw = {one.index: one.raw_score for one in Reranker(fake).rank(QUERY, TEXTS)}
    for one in results:
        assert one["relevance_score"] == fitted([raw[one["index"]]])[0]


def test_a_deadline_of_the_servers_own_and_one_of_the_request() -> None:
    slow = FaultyCrossEncoder(delay_s=0.2, batch_tokens=8)
    settings = ServerSettings(slow, None, deadline_ms=300)
    texts = [f"rain {number}" for number in range(100)]
    answer = ask(settings, texts)
    assert answer.headers["X-Ranking-Status"] == "partial"
    assert 0 < len(answer.json()["results"]) < 100
    none = ask(settings, texts, **{"X-Deadline-Ms": "1"})
    assert none.status_code == 504
    assert "not done within 1.0 ms" in none.text


def test_fewer_chunks_than_windows_are_refused() -> None:
    body = {"query": QUERY, "documents": TEXTS, "max_chunks_per_doc": 4}
    settings = ServerSettings(FakeCrossEncoder(), None, long_documents="windows", max_windows=8)
    with live(settings) as server:
        refused = httpx.post(f"{server.url}/v1/rerank", json=body)
        taken = httpx.post(f"{server.url}/v1/rerank", json=body | {"max_chunks_per_doc": 8})
    assert (refused.status_code, taken.status_code) == (422, 200)
    assert "reads up to 8 windows" in refused.text


def test_settings_that_cannot_work_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="fusion_weight is 2"):
        create_app(ServerSettings(FakeCrossEncoder(), None, fusion_weight=2))
