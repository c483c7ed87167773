"""Fake servers, and specifications of remote models on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rerank_plugins import RemoteSpec
from tests.backends.remote.schemas import SCHEMAS
from tests.helpers.fake_server import TOKEN, FakeServer

Start = Callable[..., FakeServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start fake servers with a given API."""
    servers: list[FakeServer] = []

    def start_server(api: str = "tei") -> FakeServer:
        servers.append(FakeServer(api))
        return servers[-1]

    yield start_server
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Start) -> FakeServer:
    return start()


@pytest.fixture(params=sorted(SCHEMAS))
def any_server(request: pytest.FixtureRequest, start: Start) -> FakeServer:
    return start(request.param)


def remote(*servers: FakeServer, **settings: Any) -> RemoteSpec:
    """Return the specification of a model on servers with the same API."""
    api: Any = servers[0].api
    defaults: dict[str, Any] = {"timeout_s": 10.0, "deadline_s": 30.0, "token": TOKEN}
    if api in ("cohere", "jina"):
        defaults["model"] = "m"
    return RemoteSpec([server.url for server in servers], api=api, **defaults | settings)
