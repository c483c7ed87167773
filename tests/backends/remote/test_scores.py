"""Right scores from every API, however many requests it takes."""

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
from tests.helpers.fake_server import TOKEN, StandIn, score, slow

ROOT = Path(__file__).parents[3]
QUERY = "who wrote faust"
DOCUMENTS = [f"goethe {'wrote' * (n % 2)} {'faust' * (n % 3)} {n}" for n in range(100)]


def check(reranker: Reranker, api: str, query: str, documents: list[str]) -> None:
    ranking = reranker.rank(query, documents)
    expected = [score(api, query, text) for text in documents]
    assert sorted(one.index for one in ranking) == list(range(len(documents)))
    for one in ranking:
        assert one.raw_score == pytest.approx(expected[one.index], abs=1e-5)
    raw = [one.raw_score for one in ranking]
    assert raw == sorted(raw, reverse=True)


def test_every_api_gives_its_scores(any_server: StandIn) -> None:
    """The stand-in refuses a field too many, a list too long, and lists best first."""
    reranker = Reranker(remote(any_server))
    check(reranker, any_server.api, QUERY, DOCUMENTS)
    one = reranker.rank(QUERY, DOCUMENTS)[0]
    if any_server.api in PROBABILITIES:
        assert one.relevance_score == one.raw_score
        assert one.raw_score <= 1
    else:
        assert one.relevance_score < 1 < one.raw_score
    calls = {"tei": 8}.get(any_server.api, 2)
    assert len(any_server.requests) == calls


async def test_async_twin(server: StandIn) -> None:
    ranking = await Reranker(remote(server)).arank(QUERY, DOCUMENTS)
    assert [one.index for one in ranking] == [
        one.index for one in Reranker(remote(server)).rank(QUERY, DOCUMENTS)
    ]


def test_long_lists_are_cut_evenly_and_run_at_once(server: StandIn) -> None:
    server.always = slow(0.2)
    check(Reranker(remote(server)), "tei", QUERY, DOCUMENTS)
    assert sorted(len(one.sent()) for one in server.requests) == [25, 25, 25, 25]
    assert server.most == 4


def test_a_small_list_is_one_request(server: StandIn) -> None:
    check(Reranker(remote(server)), "tei", QUERY, DOCUMENTS[:32])
    assert len(server.requests) == 1


def test_bodies_stay_below_the_limit(server: StandIn) -> None:
    """Sixty texts of 40 kB that JSON makes six times as long: the stand-in would say 413."""
    documents = [f"{n} faust " + "\x01" * 40_000 for n in range(60)]
    check(Reranker(remote(server)), "tei", QUERY, documents)


def test_many_callers_get_their_own_scores_within_the_limit(server: StandIn) -> None:
    server.always = slow(0.02)
    reranker = Reranker(remote(server, max_concurrent=3))
    with ThreadPoolExecutor(16) as pool:
        jobs = [
            pool.submit(check, reranker, "tei", f"who wrote faust {n}", DOCUMENTS[n : n + 40])
            for n in range(32)
        ]
        for job in jobs:
            job.result()
    assert 1 < server.most <= 3


def test_one_callers_bad_text_fails_nobody_else(start: Start) -> None:
    """Two callers with the same query: the server refuses the whole request of one."""
    server = start("infinity")
    reranker = Reranker(remote(server, max_characters=200_000))
    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(reranker.rank, QUERY, [*DOCUMENTS[:3], str(n)]) for n in range(7)]
        bad = pool.submit(reranker.rank, QUERY, ["x" * 150_000])
        for one in good:
            assert len(one.result()) == 4
        with pytest.raises(RemoteStatusError, match=r"422.*at most 122880 characters") as caught:
            bad.result()
    assert caught.value.status == 422


def test_texts_are_cut_to_what_the_api_takes(start: Start) -> None:
    ranking = Reranker(remote(start("infinity"))).rank(QUERY, ["faust " * 30_000, "rain"])
    assert [one.truncated for one in ranking] == [True, False]


def test_equal_settings_share_an_engine_and_its_cache(server: StandIn) -> None:
    first = Reranker(remote(server), cache=Cache(memory_mb=1))
    assert Reranker(remote(server), top_n=3).engine is first.engine
    assert Reranker(remote(server, retries=0)).engine is not first.engine
    assert Reranker(remote(server, token=TOKEN[::-1])).engine is not first.engine
    first.rank(QUERY, DOCUMENTS[:5])
    again = first.rank(QUERY, DOCUMENTS[:5])
    assert again.stats.cache_hits == 5
    assert len(server.requests) == 1


def test_a_plain_address_is_the_same_model(start: Start) -> None:
    url = start("rerank-plugins").url
    plain = Reranker(url + "/", backend="rerank-plugins")
    assert plain.engine is Reranker(RemoteSpec(url, api="rerank-plugins")).engine
    with pytest.raises(RemoteStatusError, match="401: invalid api token"):
        plain.rank("a", ["b"])


def test_a_whole_address_is_used_as_it_is(start: Start) -> None:
    server = start("jina")
    model = RemoteSpec(server.url + "/v1/rerank", api="jina", model="m", token=TOKEN)
    assert len(Reranker(model).rank(QUERY, DOCUMENTS[:3])) == 3


def test_a_thin_client_needs_no_model_library(server: StandIn) -> None:
    """In a process where torch and its friends cannot even be imported."""
    code = f"""
        import sys
        for name in ("torch", "transformers", "sentence_transformers", "tokenizers"):
            sys.modules[name] = None
        from rerank_plugins import RemoteSpec, Reranker
        model = RemoteSpec({server.url!r}, api="tei", token_env="RERANK_TOKEN")
        ranking = Reranker(model).rank("who wrote faust", ["rain", "goethe wrote faust"])
        print([one.index for one in ranking], sys.modules["torch"])
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
    """What the core relies on, over HTTP."""

    @pytest.fixture
    def backend(self, server: StandIn) -> Iterator[RemoteCrossEncoder]:
        model = remote(server, max_characters=5_000)
        config = ModelConfig(str(model), backend="tei", settings=model)
        backend = RemoteCrossEncoder(RemoteCrossEncoder.resolve(config))
        assert backend.scale is ScoreScale.LOGIT
        yield backend
        backend.close()


def test_the_engine_is_closed_while_requests_run(server: StandIn) -> None:
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
