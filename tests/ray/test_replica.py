"""A replica without a cluster: changed settings and health checks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="the extra ray is not installed")

from rerank_plugins.errors import ConfigurationError, InferenceError, ModelLoadError
from rerank_plugins.ray import replica as ray_replica
from rerank_plugins.ray.replica import HttpRequest, HttpResponse, RerankReplica
from rerank_plugins.testing import FakeCrossEncoder


@pytest.fixture(autouse=True)
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the metrics, which work only inside Serve."""
    reports: list[Any] = []

    class Reports:
        def report(self, engines: Any) -> None:
            reports.append(engines)

    monkeypatch.setattr(ray_replica, "EngineMetrics", Reports)
    return reports


def request(documents: int, *others: str) -> HttpRequest:
    body = {"query": "red apple", "documents": ["a red apple"] * documents + list(others)}
    headers = [(b"content-type", b"application/json")]
    return HttpRequest("POST", "/v2/rerank", b"", headers, json.dumps(body).encode())


async def replica(**settings: Any) -> RerankReplica:
    started = RerankReplica({"embedding_model": None, "model": "mini", **settings})
    await started.reconfigure({})
    return started


async def test_user_config_overrides_the_settings() -> None:
    started = await replica(max_documents=2)
    assert (await started.handle(request(3))).status == 422
    await started.reconfigure({"max_documents": 3})
    response: HttpResponse = await started.handle(request(3))
    assert response.status == 200
    assert len(json.loads(response.body)["results"]) == 3
    await started.reconfigure({})
    assert (await started.handle(request(3))).status == 422


async def test_an_invalid_change_keeps_the_current_application() -> None:
    started = await replica()
    with pytest.raises(ModelLoadError):
        await started.reconfigure({"model": "/nowhere/at/all", "local_files_only": True})
    with pytest.raises(ConfigurationError, match="user_config"):
        await started.reconfigure({"modle": "mini"})
    assert (await started.handle(request(1))).status == 200
    await started.check_health()


async def test_requests_in_flight_finish_on_their_model() -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(FakeCrossEncoder):
        def run(self, batch: Any) -> Any:
            if len(batch) > 1:
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
            return super().run(batch)

    old = Slow()
    started = await replica(model=old)
    waiting = asyncio.ensure_future(started.handle(request(1, "another")))
    await asyncio.sleep(0.2)
    await started.reconfigure({"model": FakeCrossEncoder()})
    assert (await started.handle(request(1))).status == 200
    assert not waiting.done()
    gate.set()
    assert (await waiting).status == 200


async def test_health_checks_test_the_engine(
    monkeypatch: pytest.MonkeyPatch, reported: list[Any]
) -> None:
    monkeypatch.setattr(ray_replica, "_PROBE_TIMEOUT_S", 0.2)
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Hanging(FakeCrossEncoder):
        hangs = False
        broken = False

        def run(self, batch: Any) -> Any:
            if self.hangs:
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
            scores = super().run(batch)
            return np.full_like(scores, np.nan) if self.broken else scores

    model = Hanging()
    started = await replica(model=model)
    await started.check_health()
    await started.check_health()
    assert len(model.batches) >= 2
    assert reported[0]["cross-encoder"].backend is model
    model.broken = True
    with pytest.raises(InferenceError):
        await started.check_health()
    model.broken, model.hangs = False, True
    await started.check_health()  # it has computed a batch since the last check
    with pytest.raises(InferenceError, match="computed nothing"):
        await started.check_health()
    gate.set()
    model.hangs = False
