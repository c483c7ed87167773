"""Texts of ten megabytes: scored, in a time and a memory that are in proportion to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
PIECES: Final = ("rain is ", "雨", " ", "a", "a\u0301", "\0", "\ud800", "[SEP]", "\U0001f327")
BYTES: Final = 10_000_000
BYTES_A_CHARACTER: Final = 700
SECONDS: Final = 120.0

CODE: Final = """
import json, math, resource, sys, time
from rerank_plugins import Reranker

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
reranker = Reranker(dtype="float32")
reranker.rank("who wrote it", ["he", "she"])
before = peak()
for piece in json.loads(sys.argv[1]):
    text = piece * (int(sys.argv[2]) // len(piece.encode("utf-8", "surrogatepass")))
    start = time.monotonic()
    ranking = reranker.rank("rain " + text[:100], [text, "rain"])
    assert all(math.isfinite(one.raw_score) for one in ranking)
    assert len(ranking) == 2
    print(json.dumps([len(text), time.monotonic() - start, peak() - before]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_texts_of_ten_megabytes_cost_in_proportion() -> None:
    command = [sys.executable, "-c", CODE, json.dumps(PIECES), str(BYTES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(PIECES)
    for characters, seconds, _ in found:
        assert characters > 1_000_000
        assert seconds < SECONDS
    longest = max(characters for characters, _, _ in found)
    assert found[-1][2] < BYTES_A_CHARACTER * longest / 2
