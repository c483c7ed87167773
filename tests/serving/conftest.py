"""A server with the embedded models, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from rerank_plugins.serving import ServerSettings
from tests.serving.live import TOKEN, Live, live


@pytest.fixture(scope="session")
def server() -> Iterator[Live]:
    """A server with a token, so that every client must send it."""
    with live(ServerSettings(dtype="float32"), TOKEN) as running:
        yield running


@pytest.fixture
def http(server: Live) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        yield client
