"""Sending again: what is, what is not, and until when. No cluster, only its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

pytest.importorskip("ray.serve", reason="the extra ray is not installed")

from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors
from ray.serve._private.common import DeploymentID

from rerank_plugins.ray.asgi import Answer, Call
from rerank_plugins.ray.serve import Forward, guarded, lost
from rerank_plugins.serving import ServerSettings
from rerank_plugins.serving.middleware import Intake

FINE = Answer(200, [(b"content-type", b"application/json")], b"[]")


class Replicas:
    """Fails as it is told, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        if self.errors:
            raise self.errors.pop(0)
        return FINE


async def ask(
    replicas: Callable[[Call], Any],
    path: str = "/v2/rerank",
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 5,
    body: bytes = b"{}",
) -> httpx.Response:
    settings = ServerSettings(max_body_bytes=100)
    app = guarded(
        Forward(replicas, retries=2, timeout_s=timeout_s), partial(Intake, settings=settings)
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, content=body, headers=headers)


def died() -> ray_errors.ActorDiedError:
    return ray_errors.ActorDiedError()


def task_error(cause: Exception) -> ray_errors.RayTaskError:
    return ray_errors.RayTaskError("answer", "trace", cause)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "error",
    [
        died(),
        ray_errors.ActorUnavailableError("gone", b"1" * 16),
        ray_errors.WorkerCrashedError(),
        ray_errors.NodeDiedError("gone"),  # type: ignore[no-untyped-call]
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_lost_replica_costs_an_attempt_only(error: Exception) -> None:
    replicas = Replicas(error, error)
    answer = await ask(replicas, body=b'{"a":1}')
    assert answer.status_code == 200
    assert answer.json() == []
    assert [call.body for call in replicas.calls] == [b'{"a":1}'] * 3
    assert len({dict(call.headers)[b"x-request-id"] for call in replicas.calls}) == 1


async def test_attempts_are_bounded() -> None:
    replicas = Replicas(*(died() for _ in range(9)))
    answer = await ask(replicas)
    assert len(replicas.calls) == 3
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert "3 replicas died" in answer.json()["message"]


async def test_a_fault_of_the_application_is_not_sent_again() -> None:
    fault = task_error(ValueError("x"))
    replicas = Replicas(fault)
    assert not lost(fault)
    with pytest.raises(ray_errors.RayTaskError):
        await ask(replicas)
    assert len(replicas.calls) == 1


def test_a_death_inside_a_task_is_a_death() -> None:
    assert lost(task_error(died()))


async def test_no_replica_in_time_is_said_in_the_words_of_the_api() -> None:
    async def never(call: Call) -> Answer:
        return await asyncio.Future[Answer]()

    answer = await ask(never, "/rerank", timeout_s=0.05)
    assert answer.status_code == 503
    assert answer.json()["error_type"] == "Unhealthy"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (serve_errors.BackPressureError(9, 8), 429),
        (serve_errors.DeploymentUnavailableError(DeploymentID("Reranker")), 503),
    ],
    ids=["queue", "deployment"],
)
async def test_what_serve_refuses_is_not_sent_again(error: Exception, status: int) -> None:
    replicas = Replicas(error)
    answer = await ask(replicas)
    assert answer.status_code == status
    assert answer.headers["Retry-After"] == "1"
    assert len(replicas.calls) == 1


async def test_a_second_attempt_has_the_time_that_is_left() -> None:
    replicas = Replicas(died())
    await ask(replicas, headers={"X-Deadline-Ms": "60000"})
    first, second = (float(dict(call.headers)[b"x-deadline-ms"]) for call in replicas.calls)
    assert 0 < second < first < 60_000
    late = await ask(Replicas(), headers={"X-Deadline-Ms": "0.000001"})
    assert late.status_code == 504
    strange = Replicas()
    await ask(strange, headers={"X-Deadline-Ms": "soon"})
    assert dict(strange.calls[0].headers)[b"x-deadline-ms"] == b"soon"


async def test_large_bodies_reach_no_replica() -> None:
    replicas = Replicas()
    assert (await ask(replicas, body=b" " * 101)).status_code == 413
    assert (await ask(replicas, "/metrics")).status_code == 404
    assert replicas.calls == []
