"""Scores of remote models through every API, split into any number of requests."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rerank_plugins import Cache, RemoteSpec, Reranker
from rerank_plugins.backends.remote.cross_encoder import RemoteCrossEncoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import EngineClosedError, RemoteStatusError
from rerank_plugins.testing import CrossEncoderContract
from rerank_plugins.types import ScoreScale
from tests.backends.remote.conftest import Start, remote
from tests.backends.remote.schemas import PROBABILITIES
from tests.helpers.fake_server import TOKEN, FakeServer, score, slow

ROOT = Path(__file__).parents[3]
QUERY = "who wrote faust"
DOCUMENTS = [f"goethe {'wrote' * (n % 2)} {'faust' * (n % 3)} {n}" for n in range(100)]


def check(reranker: Reranker, api: str, query: str, documents: list[str]) -> None:
    ranking = reranker.rank(query, documents)
    expected = [score(api, query, text) for text in documents]
    assert sorted(document.index for document in ranking) == list(range(len(documents)))
    for document in ranking:
        assert document.raw_score == pytest.approx(expected[document.index], abs=1e-5)
    raw = [document.raw_score for document in ranking]
    assert raw == sorted(raw, reverse=True)


def test_every_api_gives_its_scores(any_server: FakeServer) -> None:
    """The fake server rejects unknown fields and long lists, and returns the best first."""
    reranker = Reranker(remote(any_server))
    check(reranker, any_server.api, QUERY, DOCUMENTS)
    best = reranker.rank(QUERY, DOCUMENTS)[0]
    if any_server.api in PROBABILITIES:
        assert best.relevance_score == best.raw_score
        assert best.raw_score <= 1
    else:
        assert best.relevance_score < 1 < best.raw_score
    calls = {"tei": 8}.get(any_server.api, 2)
    assert len(any_server.requests) == calls


async def test_arank_equals_rank(server: FakeServer) -> None:
    ranking = await Reranker(remote(server)).arank(QUERY, DOCUMENTS)
    expected = Reranker(remote(server)).rank(QUERY, DOCUMENTS)
    assert [document.index for document in ranking] == [document.index for document in expected]


def test_long_lists_are_split_evenly_and_sent_concurrently(server: FakeServer) -> None:
    server.always = slow(0.2)
    check(Reranker(remote(server)), "tei", QUERY, DOCUMENTS)
    assert sorted(len(request.sent()) for request in server.requests) == [25, 25, 25, 25]
    assert server.max_concurrency == 4


def test_a_short_list_is_one_request(server: FakeServer) -> None:
    check(Reranker(remote(server)), "tei", QUERY, DOCUMENTS[:32])
    assert len(server.requests) == 1


def test_request_bodies_stay_below_the_size_limit(server: FakeServer) -> None:
    """JSON makes these sixty texts of 40 kB six times longer; the server would return 413."""
    documents = [f"{n} faust " + "\x01" * 40_000 for n in range(60)]
    check(Reranker(remote(server)), "tei", QUERY, documents)


def test_concurrent_callers_get_their_own_scores_within_max_concurrent(server: FakeServer) -> None:
    server.always = slow(0.02)
    reranker = Reranker(remote(server, max_concurrent=3))
    with ThreadPoolExecutor(16) as pool:
        futures = [
            pool.submit(check, reranker, "tei", f"who wrote faust {n}", DOCUMENTS[n : n + 40])
            for n in range(32)
        ]
        for future in futures:
            future.result()
    assert 1 < server.max_concurrency <= 3


def test_a_rejected_text_fails_only_its_own_caller(start: Start) -> None:
    """The server rejects a whole request; other callers with the same query are unaffected."""
    server = start("infinity")
    reranker = Reranker(remote(server, max_characters=200_000))
    with ThreadPoolExecutor(8) as pool:
        valid = [pool.submit(reranker.rank, QUERY, [*DOCUMENTS[:3], str(n)]) for n in range(7)]
        rejected = pool.submit(reranker.rank, QUERY, ["x" * 150_000])
        for future in valid:
            assert len(future.result()) == 4
        with pytest.raises(RemoteStatusError, match=r"422.*at most 122880 characters") as caught:
            rejected.result()
    assert caught.value.status == 422


def test_texts_are_truncated_to_the_limit_of_the_api(start: Start) -> None:
    ranking = Reranker(remote(start("infinity"))).rank(QUERY, ["faust " * 30_000, "rain"])
    assert [document.truncated for document in ranking] == [True, False]


def test_equal_settings_share_an_engine_and_its_cache(server: FakeServer) -> None:
    first = Reranker(remote(server), cache=Cache(memory_mb=1))
    assert Reranker(remote(server), top_n=3).engine is first.engine
    assert Reranker(remote(server, retries=0)).engine is not first.engine
    assert Reranker(remote(server, token=TOKEN[::-1])).engine is not first.engine
    first.rank(QUERY, DOCUMENTS[:5])
    again = first.rank(QUERY, DOCUMENTS[:5])
    assert again.stats.cache_hits == 5
    assert len(server.requests) == 1


def test_a_url_and_a_spec_share_an_engine(start: Start) -> None:
    url = start("rerank-plugins").url
    plain = Reranker(url + "/", backend="rerank-plugins")
    assert plain.engine is Reranker(RemoteSpec(url, api="rerank-plugins")).engine
    with pytest.raises(RemoteStatusError, match="401: invalid api token"):
        plain.rank("a", ["b"])


def test_a_url_with_the_endpoint_is_used_unchanged(start: Start) -> None:
    server = start("jina")
    model = RemoteSpec(server.url + "/v1/rerank", api="jina", model="m", token=TOKEN)
    assert len(Reranker(model).rank(QUERY, DOCUMENTS[:3])) == 3


def test_a_thin_client_needs_no_model_library(server: FakeServer) -> None:
    """Torch, transformers, sentence-transformers and tokenizers cannot be imported."""
    code = f"""
        import sys
        for name in ("torch", "transformers", "sentence_transformers", "tokenizers"):
            sys.modules[name] = None
        from rerank_plugins import Cache, RemoteSpec, Reranker
        model = RemoteSpec({server.url!r}, api="tei", token_env="RERANK_TOKEN")
        ranking = Reranker(model).rank("who wrote faust", ["rain", "goethe wrote faust"])
        print([document.index for document in ranking], sys.modules["torch"])
    """
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "RERANK_TOKEN": TOKEN + "\n"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[1, 0] None\n", "")


class TestContract(CrossEncoderContract):
    """The remote backend keeps the contract of cross-encoders."""

    @pytest.fixture
    def backend(self, server: FakeServer) -> Iterator[RemoteCrossEncoder]:
        model = remote(server, max_characters=5_000)
        config = ModelConfig(str(model), backend="tei", spec=model)
        backend = RemoteCrossEncoder(RemoteCrossEncoder.resolve(config))
        assert backend.scale is ScoreScale.LOGIT
        yield backend
        backend.close()


def test_closing_the_engine_cancels_running_requests(server: FakeServer) -> None:
    server.always = slow(0.3)
    reranker = Reranker(remote(server))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(reranker.rank, QUERY, DOCUMENTS)
        while not server.requests:
            time.sleep(0.01)
        reranker.close()
        with pytest.raises(EngineClosedError):
            running.result()
    assert len(reranker.rank(QUERY, DOCUMENTS[:2])) == 2
