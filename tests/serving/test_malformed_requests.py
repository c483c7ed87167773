"""Malformed requests are refused with the right status, and the server continues."""

from __future__ import annotations

import httpx

from rerank_plugins.serving import ServerSettings
from rerank_plugins.testing import FakeCrossEncoder
from tests.serving.live import live
from tests.serving.malformed import MALFORMED, hang_up, send_malformed


async def test_malformed_requests_are_refused() -> None:
    settings = ServerSettings(model=FakeCrossEncoder(), embedding_model=None)
    with live(settings) as server:
        async with httpx.AsyncClient() as http:
            for name in MALFORMED:
                assert await send_malformed(server.url, http, name) is None
        await hang_up(server.url)
        response = httpx.post(
            f"{server.url}/v2/rerank", json={"query": "Who wrote Faust?", "documents": ["Goethe."]}
        )
        assert response.status_code == 200
