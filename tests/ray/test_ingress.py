"""Retries of the ingress, with the errors of a cluster but without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytest.importorskip("ray.serve", reason="the extra ray is not installed")

from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors
from ray.serve._private.common import DeploymentID

from rerank_plugins.ray.replica import HttpRequest, HttpResponse
from rerank_plugins.ray.serve import build_ingress_app, is_replica_lost
from rerank_plugins.ray.settings import RayServeSettings

OK = HttpResponse(200, [(b"content-type", b"application/json")], b"[]")


class Replicas:
    """Raises the errors one after the other, then responds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.requests: list[HttpRequest] = []

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        if self.errors:
            raise self.errors.pop(0)
        return OK


async def post(
    replicas: Callable[[HttpRequest], Any],
    path: str = "/v2/rerank",
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 5,
    body: bytes = b"{}",
) -> httpx.Response:
    settings = RayServeSettings(max_body_bytes=100, retries=2, request_timeout_s=timeout_s)
    app = build_ingress_app(replicas, settings)
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
async def test_a_request_to_a_lost_replica_is_retried(error: Exception) -> None:
    replicas = Replicas(error, error)
    response = await post(replicas, body=b'{"a":1}')
    assert response.status_code == 200
    assert response.json() == []
    assert [request.body for request in replicas.requests] == [b'{"a":1}'] * 3
    assert len({dict(request.headers)[b"x-request-id"] for request in replicas.requests}) == 1


async def test_retries_are_limited() -> None:
    replicas = Replicas(*(died() for _ in range(9)))
    response = await post(replicas)
    assert len(replicas.requests) == 3
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert "3 replicas died" in response.json()["message"]


async def test_an_error_of_the_application_is_not_retried() -> None:
    error = task_error(ValueError("x"))
    replicas = Replicas(error)
    assert not is_replica_lost(error)
    with pytest.raises(ray_errors.RayTaskError):
        await post(replicas)
    assert len(replicas.requests) == 1


def test_a_death_inside_a_task_is_a_lost_replica() -> None:
    assert is_replica_lost(task_error(died()))


async def test_a_timeout_is_answered_in_the_shape_of_the_api() -> None:
    async def never(request: HttpRequest) -> HttpResponse:
        return await asyncio.Future[HttpResponse]()

    response = await post(never, "/rerank", timeout_s=0.05)
    assert response.status_code == 503
    assert response.json()["error_type"] == "Unhealthy"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (serve_errors.BackPressureError(9, 8), 429),
        (serve_errors.DeploymentUnavailableError(DeploymentID("Reranker")), 503),
    ],
    ids=["queue", "deployment"],
)
async def test_rejections_by_serve_are_not_retried(error: Exception, status: int) -> None:
    replicas = Replicas(error)
    response = await post(replicas)
    assert response.status_code == status
    assert response.headers["Retry-After"] == "1"
    assert len(replicas.requests) == 1


async def test_a_retry_has_the_remaining_deadline() -> None:
    replicas = Replicas(died())
    await post(replicas, headers={"X-Deadline-Ms": "60000"})
    first, second = (
        float(dict(request.headers)[b"x-deadline-ms"]) for request in replicas.requests
    )
    assert 0 < second < first < 60_000
    late = await post(Replicas(), headers={"X-Deadline-Ms": "0.000001"})
    assert late.status_code == 504
    invalid = Replicas()
    await post(invalid, headers={"X-Deadline-Ms": "soon"})
    assert dict(invalid.requests[0].headers)[b"x-deadline-ms"] == b"soon"


async def test_large_bodies_do_not_reach_replicas() -> None:
    replicas = Replicas()
    assert (await post(replicas, body=b" " * 101)).status_code == 413
    assert (await post(replicas, "/metrics")).status_code == 404
    assert replicas.requests == []
