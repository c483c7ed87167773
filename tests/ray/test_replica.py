"""A replica without its cluster: settings change under requests, health is what the engine does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="the extra ray is not installed")

from rerank_plugins.errors import ConfigurationError, InferenceError, ModelLoadError
from rerank_plugins.ray import replica as ray_replica
from rerank_plugins.ray.asgi import Answer, Call
from rerank_plugins.ray.replica import RerankReplica
from rerank_plugins.testing import FakeCrossEncoder


@pytest.fixture(autouse=True)
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for the metrics, which only a replica inside Serve has."""
    reports: list[Any] = []

    class Reports:
        def report(self, engines: Any) -> None:
            reports.append(engines)

    monkeypatch.setattr(ray_replica, "EngineMetrics", Reports)
    return reports


def call(documents: int, *others: str) -> Call:
    body = {"query": "red apple", "documents": ["a red apple"] * documents + list(others)}
    headers = [(b"content-type", b"application/json")]
    return Call("POST", "/v2/rerank", b"", headers, json.dumps(body).encode())


async def replica(**settings: Any) -> RerankReplica:
    made = RerankReplica({"embedding_model": None, "model": "mini", **settings})
    await made.reconfigure({})
    return made


async def test_user_config_changes_what_the_application_was_built_with() -> None:
    made = await replica(max_documents=2)
    assert (await made.answer(call(3))).status == 422
    await made.reconfigure({"max_documents": 3})
    answer: Answer = await made.answer(call(3))
    assert answer.status == 200
    assert len(json.loads(answer.body)["results"]) == 3
    await made.reconfigure({})
    assert (await made.answer(call(3))).status == 422


async def test_a_change_that_cannot_work_leaves_what_runs() -> None:
    made = await replica()
    with pytest.raises(ModelLoadError):
        await made.reconfigure({"model": "/nowhere/at/all", "local_files_only": True})
    with pytest.raises(ConfigurationError, match="user_config"):
        await made.reconfigure({"modle": "mini"})
    assert (await made.answer(call(1))).status == 200
    await made.check_health()


async def test_requests_in_flight_end_on_the_model_that_they_began_with() -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(FakeCrossEncoder):
        def run(self, batch: Any) -> Any:
            if len(batch) > 1:
                asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
            return super().run(batch)

    old = Slow()
    made = await replica(model=old)
    waiting = asyncio.ensure_future(made.answer(call(1, "another")))
    await asyncio.sleep(0.2)
    await made.reconfigure({"model": FakeCrossEncoder()})
    assert (await made.answer(call(1))).status == 200
    assert not waiting.done()
    gate.set()
    assert (await waiting).status == 200


async def test_health_is_that_of_the_engine(
    monkeypatch: pytest.MonkeyPatch, reported: list[Any]
) -> None:
    monkeypatch.setattr(ray_replica, "_PROBE_S", 0.2)
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
    made = await replica(model=model)
    await made.check_health()
    await made.check_health()
    assert len(model.batches) >= 2
    assert reported[0]["cross-encoder"].backend is model
    model.broken = True
    with pytest.raises(InferenceError):
        await made.check_health()
    model.broken, model.hangs = False, True
    await made.check_health()  # it computed something since the check before
    with pytest.raises(InferenceError, match="computed nothing"):
        await made.check_health()
    gate.set()
    model.hangs = False
