"""What each API promises beyond what its clients use."""

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


def message(answer: httpx.Response) -> str:
    """Return the message of an error, wherever the API has it."""
    content = answer.json()
    found = content.get("message") or content["error"]
    return str(found["message"] if isinstance(found, dict) else found)


def test_tei_gives_every_text_best_first(http: httpx.Client) -> None:
    expected = Reranker(dtype="float32").rank(QUESTION, TEXTS)
    body = {"query": QUESTION, "texts": TEXTS, "return_text": True, "raw_scores": True}
    answer = http.post("/rerank", json=body)
    assert [one["index"] for one in answer.json()] == [one.index for one in expected]
    assert [one["text"] for one in answer.json()] == [one.text for one in expected]
    raw = [one.raw_score for one in expected]
    assert [one["score"] for one in answer.json()] == pytest.approx(raw, abs=1e-5)
    assert int(answer.headers["x-compute-tokens"]) == expected.stats.tokens
    assert "text" not in http.post("/rerank", json=APIS["/rerank"]).json()[0]


def test_tei_errors_have_its_shape(http: httpx.Client) -> None:
    empty = http.post("/rerank", json={"query": QUESTION, "texts": []})
    assert (empty.status_code, empty.json()["error_type"]) == (400, "Empty")
    wrong = http.post("/rerank", json={"query": QUESTION, "texts": ["a", 3]})
    assert wrong.status_code == 422
    assert wrong.json() == {
        "error": "texts: element 1 must be a string, not int",
        "error_type": "Validation",
    }


def test_tei_may_refuse_to_cut(http: httpx.Client) -> None:
    body = {"query": QUESTION, "texts": ["rain", "word " * 600], "truncate": False}
    refused = http.post("/rerank", json=body)
    assert refused.status_code == 422
    assert message(refused).startswith("1 texts are longer")
    assert http.post("/rerank", json={**body, "truncate": True}).status_code == 200


def test_no_documents_are_an_empty_ranking(http: httpx.Client) -> None:
    for path in ("/v1/rerank", "/v2/rerank"):
        answer = http.post(path, json={"query": QUESTION, "documents": []})
        assert (answer.status_code, answer.json()["results"]) == (200, [])


def test_cohere_says_when_it_cannot_cut_shorter(http: httpx.Client) -> None:
    body = {**APIS["/v2/rerank"], "max_tokens_per_doc": 100}
    assert "up to 512 tokens" in message(http.post("/v2/rerank", json=body))
    assert http.post("/v2/rerank", json={**body, "max_tokens_per_doc": 4096}).status_code == 200


def test_documents_of_objects_need_a_field_to_read(http: httpx.Client) -> None:
    body = {"query": QUESTION, "documents": [{"title": "a"}]}
    answer = http.post("/v1/rerank", json=body)
    assert answer.status_code == 422
    assert message(answer).startswith("document 0 has none")


def test_a_priority_changes_no_score(http: httpx.Client) -> None:
    first = http.post("/v2/rerank", json=APIS["/v2/rerank"]).json()["results"]
    later = http.post("/v2/rerank", json={**APIS["/v2/rerank"], "priority": 5}).json()["results"]
    assert [one["index"] for one in later] == [one["index"] for one in first]
    scores = [one["relevance_score"] for one in first]
    assert [one["relevance_score"] for one in later] == pytest.approx(scores, abs=1e-5)


def test_lone_surrogates_come_back_as_they_were(http: httpx.Client) -> None:
    content = json.dumps({"query": QUESTION, "texts": ["a \ud800 b"], "return_text": True})
    headers = {"Content-Type": "application/json"}
    answer = http.post("/rerank", content=content, headers=headers)
    assert json.loads(answer.content)[0]["text"] == "a \ud800 b"


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"topn": 1}, "topn"),
        ({"query": 3, "input": 3}, "must be a"),
        ({"texts": None, "documents": None, "input": {}}, "must be a"),
    ],
)
def test_wrong_fields_are_named(
    http: httpx.Client, path: str, change: dict[str, Any], says: str
) -> None:
    answer = http.post(path, json={**APIS[path], **change})
    assert answer.status_code == 422
    assert says in message(answer)


@pytest.mark.parametrize("path", APIS)
def test_what_is_no_json_is_refused(http: httpx.Client, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b""):
        assert http.post(path, content=content, headers=headers).status_code in (400, 422)


def test_a_text_is_never_repeated_in_an_error(http: httpx.Client) -> None:
    body = {"query": QUESTION, "texts": ["secret word", 3]}
    assert "secret" not in http.post("/rerank", json=body).text


def test_who_asks_by_role_gets_the_prompt_of_that_role(http: httpx.Client) -> None:
    body = {"input": "rain", "input_type": "query"}
    assert len(http.post("/v1/embeddings", json=body).json()["data"]) == 1
    assert http.post("/v1/embeddings", json={**body, "input_type": "poem"}).status_code == 422


def test_request_ids(http: httpx.Client) -> None:
    given = http.get("/health", headers={"X-Request-ID": "abc-1.2_3"})
    assert given.headers["x-request-id"] == "abc-1.2_3"
    for strange in ("a b", "x" * 200, '"}{', ""):
        made = http.get("/health", headers={"X-Request-ID": strange}).headers["x-request-id"]
        assert len(made) == 32
    assert http.post("/v2/rerank", json=APIS["/v2/rerank"]).json()["id"]


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    assert http.get("/nothing").status_code == 404
    refused = http.get("/rerank")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["error_type"] == "Validation"


def test_the_documentation_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs").text
    for path in APIS:
        assert f"POST {path}" in page
    assert "src=" not in page
    assert "://" not in page
    assert "http" not in page
    assert set(APIS) < set(http.get("/openapi.json").json()["paths"])


def test_a_server_without_embeddings_says_so() -> None:
    with live(ServerSettings(embedding_model=None)) as running:
        answer = httpx.post(f"{running.url}/v1/embeddings", json=APIS["/v1/embeddings"])
    assert answer.status_code == 404
    assert "no embedding model" in message(answer)


def test_metrics_count_requests_and_what_the_engine_did(server: Live, http: httpx.Client) -> None:
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
