"""Any body at any endpoint: no internal error, and the server continues.

These are arbitrary bytes; ``tests/serving/test_fuzz.py`` sends requests that fit the schemas.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from hypothesis import strategies as st

from rerank_plugins.serving import ServerSettings
from tests.robustness.fuzz.fuzz_budget import fuzz
from tests.robustness.fuzz.mutations import any_json, changed, damaged, encoded
from tests.serving.live import Live, live
from tests.serving.test_api import APIS

NAMES: Final = (
    "query", "texts", "documents", "input", "model", "top_n", "raw_scores", "return_text",
    "truncate", "return_documents", "rank_fields", "max_chunks_per_doc", "max_tokens_per_doc",
    "priority", "dimensions", "encoding_format", "input_type", "user", "truncation_direction",
)  # fmt: skip
ENCODINGS: Final = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7", "cp037")
TYPES: Final = (
    "application/json", "application/json; charset=utf-16", "text/plain", "", "application/xml",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "\xff", "a/b" * 99,
)  # fmt: skip
PATHS: Final = (*APIS, "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/nothing")


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(ServerSettings(dtype="float32", max_length=64)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


def with_duplicate_names(content: dict[str, Any]) -> bytes:
    """Return an object with each name twice, first with an invalid value."""
    inner = ", ".join(f"{json.dumps(name)}: [null, {json.dumps(name)}]" for name in content)
    return (f"{{{inner}, " + json.dumps(content)[1:]).encode()


def numbers(content: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Return bodies with unusual numbers, some of which are not valid JSON."""
    unusual = st.sampled_from(
        ["1" * 5_000, "-1e999", "1e-999", "NaN", "Infinity", "-Infinity", "0x1", "01", "1.",
         "1" * 400, "-0", "1E400", "9" * 20]
    )  # fmt: skip
    return st.builds(
        lambda name, number: (json.dumps(content)[:-1] + f', "{name}": {number}}}').encode(),
        st.sampled_from(NAMES), unusual,
    )  # fmt: skip


def deep(depth: int, opening: str, closing: str, content: dict[str, Any]) -> bytes:
    nested = opening * depth + closing * depth
    return (json.dumps(content)[:-1] + f', "query": {nested}}}').encode()


def compressed(body: bytes, encoding: str) -> bytes:
    """Return a compressed body."""
    return gzip.compress(body) if encoding == "gzip" else zlib.compress(body)


def bodies(path: str) -> st.SearchStrategy[bytes]:
    """Draw bodies for an endpoint."""
    content = APIS.get(path, APIS["/rerank"])
    return st.one_of(
        changed(content, NAMES).map(encoded),
        any_json.map(encoded),
        st.binary(max_size=200),
        damaged(json.dumps(content).encode()),
        st.just(with_duplicate_names(content)),
        numbers(content),
        st.builds(
            deep, st.sampled_from([1, 50, 500, 990, 2_000, 100_000]),
            st.sampled_from(["[", '{"a":']), st.sampled_from(["]", "}", ""]), st.just(content),
        ),
        st.sampled_from(ENCODINGS).map(lambda encoding: json.dumps(content).encode(encoding)),
        st.just(json.dumps({**content, "query": "\ud800\0\u202e"}, ensure_ascii=True).encode()),
        st.sampled_from(["gzip", "deflate"]).map(
            lambda encoding: compressed(bytes(10**6), encoding)
        ),
    )  # fmt: skip


calls = st.sampled_from(PATHS).flatmap(
    lambda path: st.tuples(
        st.just(path),
        bodies(path),
        st.sampled_from(["POST"] * 9 + ["GET", "PUT", "DELETE"]),
        st.fixed_dictionaries(
            {"Content-Type": st.sampled_from(TYPES[:1] * 8 + TYPES)},
            optional={
                "Content-Encoding": st.sampled_from(["gzip", "deflate", "br", "gzip, gzip", "x"]),
                "X-Request-ID": st.text(st.characters(min_codepoint=33, max_codepoint=126)),
                "X-Priority": st.sampled_from(["1", "nan", ""]),
                "traceparent": st.sampled_from(["00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x"]),
                "Accept-Encoding": st.sampled_from(["gzip", "x"]),
                "Expect": st.just("100-continue"),
            },
        ),
    )
)


@fuzz(few=100, many=1500, call=calls)
def test_any_body_is_answered(
    server: Live, client: httpx.Client, caplog: pytest.LogCaptureFixture, call: Any
) -> None:
    path, body, method, headers = call
    raw_headers = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.request(method, path, content=body, headers=raw_headers)
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 424, answer.text  # the status of TEI if the model fails
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    if path in APIS:
        content = json.loads(answer.content)
        assert answer.status_code == 200 or "error" in content or "message" in content
        assert answer.status_code == 200 or len(answer.content) < 20_000
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert client.get("/health").status_code == 200


@fuzz(
    few=15, many=300, path=st.sampled_from(sorted(APIS)),
    deadline=st.sampled_from(["nan", "1e9", "-1", "", "1e-9", "\xff", "0x10", "1,2", "9" * 999])
    | st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=20),
)  # fmt: skip
def test_any_deadline_is_answered(client: httpx.Client, path: str, deadline: str) -> None:
    header: Any = {"X-Deadline-Ms": deadline.encode("latin-1")}
    answer = client.post(path, json=APIS[path], headers=header)
    assert answer.status_code in (200, 422, 504), answer.text
