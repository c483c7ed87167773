"""Fuzzing by the OpenAPI schema of the server: no request causes a server error.

Runs all phases of Schemathesis: examples, boundary values, random and invalid requests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving.live import TOKEN, Live

FIXED = {
    "Authorization": f"Bearer {TOKEN}",
    # Most random deadlines pass and give 504; test_limits.py tests deadlines.
    "X-Deadline-Ms": "600000",
}
# A request can match the schema and be invalid: an empty query, another dimension.
EXCLUDED = "positive_data_acceptance"


def fuzz(server: Live, folder: Path, examples: int) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    for name, value in FIXED.items():
        command += ["--header", f"{name}: {value}"]
    command += ["--max-examples", str(examples), "--exclude-checks", EXCLUDED]
    command += ["--seed", "7", "--continue-on-failure", "--no-color"]
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(map(len, httpx.get(f"{server.url}/openapi.json").json()["paths"].values()))
    assert operations >= 7  # four APIs, two probes and the metrics
    assert re.search(rf"Tested: +{operations}\b", done.stdout), done.stdout


def test_few_requests(server: Live, tmp_path: Path) -> None:
    fuzz(server, tmp_path, examples=5)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_many_requests(server: Live, tmp_path: Path) -> None:
    fuzz(server, tmp_path, examples=500)
