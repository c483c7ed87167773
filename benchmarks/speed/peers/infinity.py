"""Infinity's HTTP server, in this process; requests go through the loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import requests
import uvicorn
from infinity_emb.args import EngineArgs
from infinity_emb.infinity_server import create_server

_START_S = 120.0
_TIMEOUT_S = 600.0


class Infinity:
    """With its defaults, but without remote code."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Start the server and wait until it serves."""
        engine = EngineArgs(
            model_name_or_path=model,
            served_model_name="model",
            engine="torch",
            device=device.partition(":")[0],
            dtype=dtype,
            trust_remote_code=False,
        )
        listening = socket.create_server(("127.0.0.1", 0))
        self._address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(create_server(engine_args_list=[engine]), log_level="warning")
        server = uvicorn.Server(config)
        threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy for the loopback
        # The server closes connections that are idle, as this one is in the turns of others.
        self._session.headers["Connection"] = "close"
        end = time.monotonic() + _START_S
        while not server.started:
            if time.monotonic() > end:
                message = f"the server did not start within {_START_S:.0f} s."
                raise TimeoutError(message)
            time.sleep(0.1)

    def inputs(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """Return the request."""
        return {"model": "model", "query": query, "documents": list(texts), "raw_scores": True}

    def call(self, request: dict[str, Any]) -> Any:
        """Rerank over HTTP."""
        answer = self._session.post(f"{self._address}/rerank", json=request, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return answer.json()

    def scores(self, output: Any) -> list[float]:
        """Return the scores in the texts' order."""
        found = {one["index"]: float(one["relevance_score"]) for one in output["results"]}
        return [found[number] for number in range(len(found))]
