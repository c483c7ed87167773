"""Servers that nobody here wrote, and our own, give the scores that the model gives here."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rerank_plugins
from rerank_plugins import RemoteModel, Reranker
from rerank_plugins.errors import RemoteStatusError
from rerank_plugins.serving import ServerSettings
from tests.remote.real_servers import COMMANDS, environment, running
from tests.serving.live import live

QUERY = "When did the oil crisis begin?"
SQUAD = Path(rerank_plugins.__file__).parent / "data" / "squad-dev" / "corpus.jsonl.gz"


def passages(count: int) -> list[str]:
    with gzip.open(SQUAD, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for _, line in zip(range(count), lines, strict=False)]


def check_equal_to_local(model: RemoteModel, count: int) -> None:
    texts = [*passages(count), "", " ", "short", "Öl 🛢 石油"]
    local = {one.index: one for one in Reranker("mini", dtype="float32").rank(QUERY, texts)}
    remote = Reranker(model).rank(QUERY, texts)
    assert sorted(one.index for one in remote) == sorted(local)
    for one in remote:
        assert one.raw_score == pytest.approx(local[one.index].raw_score, abs=1e-4), texts[
            one.index
        ]
        assert one.relevance_score == pytest.approx(local[one.index].relevance_score, abs=1e-4)


@pytest.fixture(scope="module")
def own() -> Iterator[str]:
    with live(ServerSettings(dtype="float32")) as server:
        yield server.url


def test_our_own_server(own: str) -> None:
    check_equal_to_local(RemoteModel(own, api="rerank-plugins", timeout_s=60, deadline_s=120), 40)


@pytest.mark.parametrize("api", ["cohere", "jina"])
def test_our_own_server_in_other_words(own: str, api: Any) -> None:
    """The same endpoints that Cohere's and Jina's clients use: probabilities, by index."""
    texts = passages(6)
    local = {one.index: one for one in Reranker("mini", dtype="float32").rank(QUERY, texts)}
    model = RemoteModel(own, api=api, model="mini", timeout_s=60, deadline_s=120)
    for one in Reranker(model).rank(QUERY, texts):
        assert one.relevance_score == pytest.approx(local[one.index].relevance_score, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_servers_of_other_projects(name: Any) -> None:
    if not environment(name).is_dir():
        pytest.skip(f"make it by: python -m tests.remote.real_servers {name}")
    with running(name) as url:
        model = RemoteModel(url, api=name, timeout_s=120, deadline_s=300)
        check_equal_to_local(model, 60)
        wrong = Reranker(RemoteModel(url, api=name, model="other", timeout_s=120, deadline_s=300))
        with pytest.raises(RemoteStatusError, match=r"40[04].*other"):
            wrong.rank(QUERY, ["text"])
