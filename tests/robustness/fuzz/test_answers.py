"""Any response of a server, in every API: the scores it contains, or a ``RemoteError``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import strategies as st

from rerank_plugins import RemoteSpec, Reranker
from rerank_plugins.errors import RemoteError, RemoteStatusError
from tests.backends.remote.conftest import remote
from tests.backends.remote.schemas import SCHEMAS
from tests.helpers.fake_server import TOKEN, FakeServer, Response
from tests.robustness.fuzz.fuzz_budget import fuzz
from tests.robustness.fuzz.mutations import any_json, changed, damaged, encoded

QUERY: Final = "who wrote faust"
DOCUMENTS: Final = ["rain", "goethe wrote faust", "faust"]
SCORES: Final = [0.25, 0.75, 0.5]


def valid(api: str, scores: Sequence[float] = SCORES) -> Any:
    """Return a valid response of an API."""
    fields: dict[str, Any] = {"query": QUERY, "model": "m", "texts": DOCUMENTS}
    fields |= {"documents": DOCUMENTS, "raw_scores": True, "use_activation": False}
    fields |= {"return_documents": False, "top_n": len(DOCUMENTS)}
    schema = SCHEMAS[api][1]
    request = {name: fields[name] for name in schema.model_fields if name in fields}
    return schema.model_validate(request).answer(scores)


VALID: Final = {api: valid(api) for api in sorted(SCHEMAS)}
NAMES: Final = ("results", "score", "relevance_score", "index", "error", "data", "document")


def bodies(api: str) -> st.SearchStrategy[bytes]:
    number = st.floats() | st.integers() | st.sampled_from([10**400, 2**128, "0.5", None])
    row = st.fixed_dictionaries(
        {"index": st.integers(-1, 3)}, optional={"score": number, "relevance_score": number}
    )
    return st.one_of(
        changed(VALID[api], NAMES).map(encoded),
        damaged(json.dumps(VALID[api]).encode()),
        any_json.map(encoded),
        st.lists(row, max_size=5).map(encoded),
        st.lists(row, max_size=5).map(lambda rows: encoded({"results": rows})),
        st.binary(max_size=100),
        st.just(json.dumps(VALID[api]).encode("utf-16")),
    )


headers = st.fixed_dictionaries(
    {},
    optional={
        "Content_Type": st.sampled_from(["text/html", "", "application/json; charset=utf-16"]),
        "Content_Encoding": st.sampled_from(["gzip", "deflate", "br", "zstd", "x", "gzip, gzip"]),
        "Location": st.sampled_from(["http://[", "//", "http://127.0.0.1:1/", "\t", "a" * 9_000]),
        "Set_Cookie": st.sampled_from(["a=b", "=", "a=b; Domain=.; Expires=x", ";" * 500]),
        "Retry_After": st.sampled_from(["nan", "-1", "1e999", "Mon, 99", "\xff"]),
    },
)
answers = st.sampled_from(sorted(SCHEMAS)).flatmap(
    lambda api: st.tuples(
        st.just(api),
        bodies(api),
        st.sampled_from([200] * 12 + [201, 204, 206, 299, 301, 304, 400, 401, 404, 418, 500, 599]),
        headers,
    )
)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, tuple[FakeServer, Reranker]]]:
    """A server of each API, and a reranker that uses it."""
    running = {api: FakeServer(api) for api in SCHEMAS}
    models: dict[str, RemoteSpec] = {
        api: remote(server, retries=0, timeout_s=20.0) for api, server in running.items()
    }
    clients = {api: (running[api], Reranker(models[api], activation="none")) for api in SCHEMAS}
    yield clients
    for server, reranker in clients.values():
        reranker.close()
        server.stop()


def scores_in(body: bytes) -> dict[int, float] | None:
    """Return the score of each document in a response, parsed without validation."""
    try:
        answer = json.loads(body)
        rows = answer["results"] if isinstance(answer, dict) else answer
        pairs = [(row["index"], row.get("relevance_score", row.get("score"))) for row in rows]
        scores = {index: float(score) for index, score in pairs}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    complete = len(pairs) == len(DOCUMENTS) and scores.keys() == set(range(len(DOCUMENTS)))
    return scores if complete and all(map(math.isfinite, scores.values())) else None


def check_refused(error: RemoteError, status: int) -> None:
    assert TOKEN not in str(error)
    assert len(str(error)) < 1_000
    assert isinstance(error, RemoteStatusError) or status < 300


def rank(server: FakeServer, reranker: Reranker, response: Response) -> dict[str, float]:
    """Return the score of each document, best first, after a response of the server."""
    server.misbehave = [lambda _handler, _request: response]
    try:
        if response.status in (204, 304):  # a body would be read as the start of the next response
            response.body = b""
        return {document.text: document.raw_score for document in reranker.rank(QUERY, DOCUMENTS)}
    finally:
        server.misbehave = []


def sent(server: FakeServer) -> list[str]:
    """Return the documents in the order of the request; the engine sorts them by length."""
    return server.requests[-1].sent()


@fuzz(few=60, many=1200, answer=answers)
def test_any_answer_is_right_or_a_remote_error(
    servers: dict[str, tuple[FakeServer, Reranker]], answer: Any
) -> None:
    api, body, status, fields = answer
    server, reranker = servers[api]
    try:
        scores = rank(server, reranker, Response(status, body, **fields))
    except RemoteError as error:
        check_refused(error, status)
    else:
        assert 200 <= status < 300
        if "Content_Encoding" not in fields:
            expected = scores_in(body)
            assert expected is not None
            texts = {sent(server)[index]: score for index, score in expected.items()}
            assert scores == pytest.approx(texts, rel=1e-6, abs=1e-40)


@fuzz(few=4, many=60, api=st.sampled_from(sorted(SCHEMAS)), scores=st.permutations(SCORES))
def test_a_valid_answer_is_taken(
    servers: dict[str, tuple[FakeServer, Reranker]], api: str, scores: list[float]
) -> None:
    server, reranker = servers[api]
    ranking = rank(server, reranker, Response(200, json.dumps(valid(api, scores))))
    assert ranking == dict(zip(sent(server), scores, strict=True))
