"""Servers and models that talk to them."""

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
    """Start a server that speaks an API."""
    servers: list[FakeServer] = []

    def starts(api: str = "tei") -> FakeServer:
        servers.append(FakeServer(api))
        return servers[-1]

    yield starts
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Start) -> FakeServer:
    return start()


@pytest.fixture(params=sorted(SCHEMAS))
def any_server(request: pytest.FixtureRequest, start: Start) -> FakeServer:
    return start(request.param)


def remote(*servers: FakeServer, **settings: Any) -> RemoteSpec:
    """Return a model on servers of one kind, which gives up fast."""
    api: Any = servers[0].api
    named: dict[str, Any] = {"model": "m"} if api in ("cohere", "jina") else {}
    defaults: dict[str, Any] = {"timeout_s": 10.0, "deadline_s": 30.0, "token": TOKEN, **named}
    return RemoteSpec([one.url for one in servers], api=api, **defaults | settings)
