"""Scores of a real Infinity server with the weights of ``mini``, compared with local scores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.clients import Request, make_requests
from benchmarks.servers import INFINITY, Server, infinity
from rerank_plugins import Ranking, RemoteSpec, Reranker
from rerank_plugins.errors import RemoteStatusError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not INFINITY.is_file(), reason="no Infinity; `make peers` installs it"),
]

# Sentences, a few passages, and a document beyond the model's 512 tokens.
REQUESTS = [
    *make_requests(6, 20, "sentence"),
    *make_requests(1, 4, "passage"),
    Request("Who wrote Faust?", ("Goethe wrote Faust. " * 400, "It rains.", "Ünïcode 漢字 🎭")),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with infinity("--no-model-warmup") as running:
        yield running


@pytest.fixture
def reranker(server: Server) -> Reranker:
    remote = RemoteSpec(server.url, api="infinity", timeout_s=120, deadline_s=300)
    return Reranker(remote)


def check(request: Request, ranking: Ranking) -> None:
    expected = Reranker(dtype="float32").rank(request.query, request.documents)
    by_index = {document.index: document for document in expected}
    assert sorted(document.index for document in ranking) == list(range(len(request.documents)))
    for document in ranking:
        local = by_index[document.index]
        assert document.text == request.documents[document.index]
        assert document.raw_score == pytest.approx(local.raw_score, abs=1e-5)
        assert document.relevance_score == pytest.approx(local.relevance_score, abs=1e-5)


def test_scores_equal_local_ones(reranker: Reranker) -> None:
    for request in REQUESTS:
        check(request, reranker.rank(request.query, request.documents))


async def test_concurrent_scores_equal_local_ones(reranker: Reranker) -> None:
    rankings = await asyncio.gather(
        *(reranker.arank(request.query, request.documents) for request in REQUESTS)
    )
    for request, ranking in zip(REQUESTS, rankings, strict=True):
        check(request, ranking)


def test_long_lists_are_split_and_merged(server: Server) -> None:
    (request,) = make_requests(1, 50, "sentence", seed=3)
    remote = RemoteSpec(server.url, api="infinity", max_documents=7, timeout_s=120, deadline_s=300)
    check(request, Reranker(remote).rank(request.query, request.documents))


def test_errors_of_the_server_are_reported(server: Server) -> None:
    remote = RemoteSpec(server.url, api="infinity", max_characters=200_000)
    with pytest.raises(RemoteStatusError, match=r"answered 422: .*122880") as caught:
        Reranker(remote).rank("Who wrote Faust?", ["It rains.", "x" * 150_000])
    assert caught.value.status == 422
    assert len(Reranker(remote).rank("Who wrote Faust?", ["It rains."])) == 1
