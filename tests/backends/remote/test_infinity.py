"""Infinity's real server on the weights of ``mini``: the scores that are computed here."""

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

# Sentences, a few whole passages, and one beyond the model's 512 tokens.
WORK = [
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


def check(work: Request, found: Ranking) -> None:
    expected = Reranker(dtype="float32").rank(work.query, work.documents)
    raw = {one.index: one.raw_score for one in expected}
    scores = {one.index: one.relevance_score for one in expected}
    assert sorted(one.index for one in found) == list(range(len(work.documents)))
    for one in found:
        assert one.text == work.documents[one.index]
        assert one.raw_score == pytest.approx(raw[one.index], abs=1e-5)
        assert one.relevance_score == pytest.approx(scores[one.index], abs=1e-5)


def test_scores_equal_local_ones(reranker: Reranker) -> None:
    for work in WORK:
        check(work, reranker.rank(work.query, work.documents))


async def test_scores_equal_local_ones_asked_at_once(reranker: Reranker) -> None:
    found = await asyncio.gather(*(reranker.arank(one.query, one.documents) for one in WORK))
    for work, ranking in zip(WORK, found, strict=True):
        check(work, ranking)


def test_lists_are_cut_and_merged_on_one_scale(server: Server) -> None:
    (work,) = make_requests(1, 50, "sentence", seed=3)
    remote = RemoteSpec(server.url, api="infinity", max_documents=7, timeout_s=120, deadline_s=300)
    check(work, Reranker(remote).rank(work.query, work.documents))


def test_what_the_server_refuses_is_said(server: Server) -> None:
    remote = RemoteSpec(server.url, api="infinity", max_characters=200_000)
    with pytest.raises(RemoteStatusError, match=r"answered 422: .*122880") as caught:
        Reranker(remote).rank("Who wrote Faust?", ["It rains.", "x" * 150_000])
    assert caught.value.status == 422
    assert len(Reranker(remote).rank("Who wrote Faust?", ["It rains."])) == 1
