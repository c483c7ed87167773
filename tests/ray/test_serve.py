"""The application on a real cluster: updates, autoscaling and failures of replicas."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rerank_plugins import Reranker
from tests.ray.live import (
    configuration,
    free_port,
    is_ready,
    listening,
    replicas,
    serve_run,
    settled,
    two_nodes,
    wait_until,
)
from tests.ray.load import TEXTS, Load, query

pytest.importorskip("ray.serve", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

ARGS: dict[str, Any] = {
    "embedding_model": None,
    "dtype": "float32",  # scores do not depend on the batch
    "replicas": 2,
    "num_cpus": 1,
    "health_check_period_s": 1,
    "health_check_timeout_s": 3,
}


class Server:
    """The application on a cluster."""

    def __init__(self, address: str, file: Path) -> None:
        self.address, self.file, self.port = address, file, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def deploy(self, **args: Any) -> None:
        serve_run(self.address, self.file, configuration(self.port, **{**ARGS, **args}))
        assert wait_until(lambda: is_ready(self.url), 240)

    def takes_at_most(self, documents: int) -> bool:
        """Return whether ten requests with one more document are rejected."""
        body = {"query": "q", "documents": ["a"] * (documents + 1)}
        responses = [httpx.post(f"{self.url}/v2/rerank", json=body) for _ in range(10)]
        return all(response.status_code == 422 for response in responses)

    def any_alive(self, processes: list[int]) -> bool:
        return bool({*replicas("Reranker"), *replicas("Ingress")} & set(processes))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with two_nodes() as address:
        server = Server(address, tmp_path_factory.mktemp("serve") / "config.yaml")
        server.deploy()
        yield server
    assert replicas("Reranker") + replicas("Ingress") == []


def assert_all_correct(load: Load) -> None:
    """Assert that every call returned the scores of a local model."""
    assert load.failures == []
    local = Reranker(max_length=512, dtype="float32")
    expected = {
        number: {doc.index: doc.relevance_score for doc in local.rank(query(number), TEXTS)}
        for number in {number % 50 for number, _ in load.answers}
    }
    for number, scores in load.answers:
        assert scores == pytest.approx(expected[number % 50], abs=1e-5)


def test_the_configuration_file_is_applied(server: Server) -> None:
    assert len(replicas("Reranker")) == 2
    assert len(replicas("Ingress")) == 2
    assert listening(server.port) == {"0100007F"}  # 127.0.0.1
    headers = {"X-Request-ID": "mine"}
    body = {"query": "q", "texts": []}
    response = httpx.post(f"{server.url}/rerank", json=body, headers=headers)
    assert (response.status_code, response.json()["error_type"]) == (400, "Empty")
    assert response.headers.get_list("X-Request-ID") == ["mine"]
    late = httpx.post(
        f"{server.url}/v2/rerank",
        json={"query": "q", "documents": TEXTS},
        headers={"X-Deadline-Ms": "0.001"},
    )
    assert late.status_code == 504
    large = httpx.post(f"{server.url}/v2/rerank", content=b" " * (8 * 2**20 + 1))
    assert large.status_code == 413
    assert "prometheus" in httpx.get(f"{server.url}/metrics").json()["message"]


def test_user_config_changes_replicas_under_load_without_a_restart(server: Server) -> None:
    before = sorted(replicas("Reranker"))
    limit = len(TEXTS)
    with Load(server.url, clients=4) as load:
        server.deploy(user_config={"max_documents": limit, "max_length": 256})
        assert wait_until(lambda: server.takes_at_most(limit), 60)
        after = load.calls
        assert wait_until(lambda: load.calls > after + 20, 60)
    assert_all_correct(load)
    assert sorted(replicas("Reranker")) == before


def test_changed_args_restart_replicas_without_failed_calls(server: Server) -> None:
    before = replicas("Reranker") + replicas("Ingress")
    with Load(server.url, clients=4) as load:
        server.deploy(max_length=128)
        assert wait_until(lambda: not server.any_alive(before), 120)
        assert wait_until(lambda: len(replicas("Reranker")) == 2, 60)
        after = load.calls
        assert wait_until(lambda: load.calls > after + 20, 60)
    assert_all_correct(load)


def test_a_missing_model_leaves_a_replica_in_service(server: Server) -> None:
    before = set(replicas("Reranker"))
    with Load(server.url, clients=4) as load:
        server.deploy(user_config={"model": "/nowhere", "local_files_only": True})
        assert wait_until(lambda: not before <= set(replicas("Reranker")), 60)
        after = load.calls
        assert wait_until(lambda: load.calls > after + 100, 120)
        assert before & set(replicas("Reranker"))
    assert_all_correct(load)
    server.deploy()
    assert wait_until(lambda: len(replicas("Reranker")) == 2, 60)


def test_a_killed_replica_fails_no_call(server: Server) -> None:
    before = settled("Reranker", 2, 120)
    with Load(server.url, clients=8) as load:
        assert wait_until(lambda: load.calls > 50, 60)
        os.kill(before[0], signal.SIGKILL)
        at_death = load.calls
        assert wait_until(lambda: load.calls > at_death + 100, 90)
        assert wait_until(lambda: len(set(replicas("Reranker")) - set(before)) == 1, 90)
        after = load.calls
        assert wait_until(lambda: load.calls > after + 50, 60)
    assert_all_correct(load)


def test_a_hanging_replica_is_replaced_and_fails_no_call(server: Server) -> None:
    before = settled("Reranker", 2, 120)
    with Load(server.url, clients=4) as load:
        assert wait_until(lambda: load.calls > 20, 60)
        os.kill(before[0], signal.SIGSTOP)
        assert wait_until(lambda: before[0] not in replicas("Reranker"), 120)
        assert wait_until(lambda: len(replicas("Reranker")) == 2, 60)
    assert_all_correct(load)


def test_autoscaling_follows_the_queue(server: Server) -> None:
    server.deploy(
        replicas=1,
        max_replicas=2,
        target_ongoing_requests=2,
        upscale_delay_s=1,
        downscale_delay_s=2,
    )
    settled("Ingress", 2, 200)
    settled("Reranker", 1, 200)
    with Load(server.url, clients=12) as load:
        assert wait_until(lambda: len(replicas("Reranker")) == 2, 200)
    assert wait_until(lambda: len(replicas("Reranker")) == 1, 200)
    assert_all_correct(load)
