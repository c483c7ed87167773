"""Fake Hugging Face Hub whose downloads can be interrupted."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from pathlib import Path
from typing import Final

from tests.helpers.loopback import Loopback, QuietHandler

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
MODEL: Final = "owner/tiny"
WEIGHTS: Final = "model.safetensors"


class Hub(Loopback):
    """Server with one model, the files of a folder.

    Attributes:
        mode: ``"whole"`` sends complete files, ``"cut"`` closes the connection in the middle of
            the weights, ``"stalled"`` sends half of the weights and keeps the connection open.
        half_sent: Set when half of the weights has been sent.
        ranges: Start of each download of the weights, in bytes.
        tokens: Authorization headers of the requests.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(_Handler)
        self.files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.mode = "whole"
        self.half_sent = threading.Event()
        self.ended = threading.Event()
        self.ranges: list[int] = []
        self.tokens: set[str] = set()
        self.start()

    def stop(self) -> None:
        self.ended.set()
        super().stop()


class _Handler(QuietHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._respond(body=False)

    def do_GET(self) -> None:
        self._respond(body=True)

    def _respond(self, *, body: bool) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.tokens.add(self.headers.get("Authorization", ""))
        if path.startswith("/mode/"):
            hub.mode = path.removeprefix("/mode/")
            self._send(b"", body=body)
        elif path == "/":
            self._send(b"a hub", body=body)
        elif match := re.fullmatch(rf"/{MODEL}/resolve/\w+/(.+)", path):
            self._send_file(match[1], body=body)
        elif re.fullmatch(rf"/api/models/{MODEL}(/revision/\w+)?", path):
            names = [{"rfilename": name} for name in hub.files]
            model = {"id": MODEL, "modelId": MODEL, "sha": COMMIT, "siblings": names, "tags": []}
            self._send(json.dumps(model).encode(), body=body)
        elif re.fullmatch(rf"/api/models/{MODEL}/tree/\w+", path):
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": COMMIT}
                for name, content in hub.files.items()
            ]
            self._send(json.dumps(rows).encode(), body=body)
        else:
            self._send(b"", status=404, body=body, **{"X-Error-Code": "EntryNotFound"})

    def _send_file(self, name: str, *, body: bool) -> None:
        hub, commit = self.server, {"X-Repo-Commit": COMMIT}
        content = hub.files.get(name)
        if content is None:
            headers = commit | {"X-Error-Code": "EntryNotFound"}
            self._send(b"", status=404, body=body, **headers)
            return
        headers = commit | {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(requested[1]) if requested else 0
        if requested:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if name != WEIGHTS or not body:
            self._send(content[start:], status=206 if requested else 200, body=body, **headers)
            return
        hub.ranges.append(start)
        stop = len(content) if hub.mode == "whole" else max(start, len(content) // 2)
        self._send_head(206 if requested else 200, len(content) - start, **headers)
        self.wfile.write(content[start:stop])
        self.wfile.flush()
        self.close_connection = hub.mode != "whole"
        if hub.mode == "stalled":
            hub.half_sent.set()
            hub.ended.wait(60)

    def _send(self, content: bytes, *, status: int = 200, body: bool, **headers: str) -> None:
        self._send_head(status, len(content), **headers)
        if body:
            self.wfile.write(content)

    def _send_head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
