"""Behavior of each API that its clients do not use."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from rerank_plugins import Reranker
from rerank_plugins.serving import ServerSettings
from tests.serving.live import QUESTION, TEXTS, Live, live

APIS: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"query": QUESTION, "documents": TEXTS},
    "/v2/rerank": {"query": QUESTION, "documents": TEXTS, "model": "any"},
    "/rerank": {"query": QUESTION, "texts": TEXTS},
    "/v1/embeddings": {"input": TEXTS},
}


def message(response: httpx.Response) -> str:
    """Return the message of an error in the shape of any API."""
    content = response.json()
    error = content.get("message") or content["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def test_tei_returns_every_text_best_first(http: httpx.Client) -> None:
    expected = Reranker(dtype="float32").rank(QUESTION, TEXTS)
    body = {"query": QUESTION, "texts": TEXTS, "return_text": True, "raw_scores": True}
    response = http.post("/rerank", json=body)
    ranks = response.json()
    assert [rank["index"] for rank in ranks] == [document.index for document in expected]
    assert [rank["text"] for rank in ranks] == [document.text for document in expected]
    raw = [document.raw_score for document in expected]
    assert [rank["score"] for rank in ranks] == pytest.approx(raw, abs=1e-5)
    assert int(response.headers["x-compute-tokens"]) == expected.stats.tokens
    assert "text" not in http.post("/rerank", json=APIS["/rerank"]).json()[0]


def test_tei_errors_have_the_shape_of_its_api(http: httpx.Client) -> None:
    empty = http.post("/rerank", json={"query": QUESTION, "texts": []})
    assert (empty.status_code, empty.json()["error_type"]) == (400, "Empty")
    wrong = http.post("/rerank", json={"query": QUESTION, "texts": ["a", 3]})
    assert wrong.status_code == 422
    assert wrong.json() == {
        "error": "texts: element 1 must be a string, not int",
        "error_type": "Validation",
    }


def test_tei_without_truncation_rejects_long_texts(http: httpx.Client) -> None:
    body = {"query": QUESTION, "texts": ["rain", "word " * 600], "truncate": False}
    rejected = http.post("/rerank", json=body)
    assert rejected.status_code == 422
    assert message(rejected).startswith("1 texts are longer")
    assert http.post("/rerank", json={**body, "truncate": True}).status_code == 200


def test_no_documents_are_an_empty_ranking(http: httpx.Client) -> None:
    for path in ("/v1/rerank", "/v2/rerank"):
        response = http.post(path, json={"query": QUESTION, "documents": []})
        assert (response.status_code, response.json()["results"]) == (200, [])


def test_cohere_rejects_max_tokens_below_the_servers(http: httpx.Client) -> None:
    body = {**APIS["/v2/rerank"], "max_tokens_per_doc": 100}
    assert "up to 512 tokens" in message(http.post("/v2/rerank", json=body))
    assert http.post("/v2/rerank", json={**body, "max_tokens_per_doc": 4096}).status_code == 200


def test_document_objects_need_a_field_to_score(http: httpx.Client) -> None:
    body = {"query": QUESTION, "documents": [{"title": "a"}]}
    response = http.post("/v1/rerank", json=body)
    assert response.status_code == 422
    assert message(response).startswith("document 0 has none")


def test_priority_does_not_change_scores(http: httpx.Client) -> None:
    first = http.post("/v2/rerank", json=APIS["/v2/rerank"]).json()["results"]
    later = http.post("/v2/rerank", json={**APIS["/v2/rerank"], "priority": 5}).json()["results"]
    assert [result["index"] for result in later] == [result["index"] for result in first]
    scores = [result["relevance_score"] for result in first]
    assert [result["relevance_score"] for result in later] == pytest.approx(scores, abs=1e-5)


def test_lone_surrogates_are_returned_unchanged(http: httpx.Client) -> None:
    content = json.dumps({"query": QUESTION, "texts": ["a \ud800 b"], "return_text": True})
    headers = {"Content-Type": "application/json"}
    response = http.post("/rerank", content=content, headers=headers)
    assert json.loads(response.content)[0]["text"] == "a \ud800 b"


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"topn": 1}, "topn"),
        ({"query": 3, "input": 3}, "must be a"),
        ({"texts": None, "documents": None, "input": {}}, "must be a"),
    ],
)
def test_errors_name_the_invalid_field(
    http: httpx.Client, path: str, change: dict[str, Any], expected: str
) -> None:
    response = http.post(path, json={**APIS[path], **change})
    assert response.status_code == 422
    assert expected in message(response)


@pytest.mark.parametrize("path", APIS)
def test_invalid_json_is_rejected(http: httpx.Client, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b""):
        assert http.post(path, content=content, headers=headers).status_code in (400, 422)


def test_errors_do_not_repeat_texts(http: httpx.Client) -> None:
    body = {"query": QUESTION, "texts": ["secret word", 3]}
    assert "secret" not in http.post("/rerank", json=body).text


def test_input_type_is_query_or_document(http: httpx.Client) -> None:
    body = {"input": "rain", "input_type": "query"}
    assert len(http.post("/v1/embeddings", json=body).json()["data"]) == 1
    assert http.post("/v1/embeddings", json={**body, "input_type": "poem"}).status_code == 422


def test_request_ids(http: httpx.Client) -> None:
    response = http.get("/health", headers={"X-Request-ID": "abc-1.2_3"})
    assert response.headers["x-request-id"] == "abc-1.2_3"
    for invalid in ("a b", "x" * 200, '"}{', ""):
        generated = http.get("/health", headers={"X-Request-ID": invalid}).headers["x-request-id"]
        assert len(generated) == 32
    assert http.post("/v2/rerank", json=APIS["/v2/rerank"]).json()["id"]


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    assert http.get("/nothing").status_code == 404
    rejected = http.get("/rerank")
    assert (rejected.status_code, rejected.headers["allow"]) == (405, "POST")
    assert rejected.json()["error_type"] == "Validation"


def test_the_docs_page_loads_nothing_remote(http: httpx.Client) -> None:
    page = http.get("/docs").text
    for path in APIS:
        assert f"POST {path}" in page
    assert "src=" not in page
    assert "://" not in page
    assert "http" not in page
    assert set(APIS) < set(http.get("/openapi.json").json()["paths"])


def test_embeddings_without_a_model_are_404() -> None:
    with live(ServerSettings(embedding_model=None)) as running:
        response = httpx.post(f"{running.url}/v1/embeddings", json=APIS["/v1/embeddings"])
    assert response.status_code == 404
    assert "no embedding model" in message(response)


def test_metrics_count_requests_and_engine_work(server: Live, http: httpx.Client) -> None:
    def count(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    requests = 'rerank_requests_total{path="/rerank",status="200"}'
    items = 'rerank_engine_items_total{kind="cross-encoder"}'
    before = count(requests), count(items), count("rerank_documents_total")
    http.post("/rerank", json=APIS["/rerank"])
    after = count(requests), count(items), count("rerank_documents_total")
    assert [late - early for early, late in zip(before, after, strict=True)] == [1, 3, 3]
    http.get("/a/path/with/a/secret")
    assert "secret" not in http.get("/metrics").text
    assert count('rerank_requests_total{path="other",status="404"}') >= 1
    assert server.app.state.models.loaded
