"""Texts of ten megabytes: their scores take time and memory in proportion to the length."""

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
BYTES_PER_CHARACTER: Final = 700
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
    assert all(math.isfinite(document.raw_score) for document in ranking)
    assert len(ranking) == 2
    print(json.dumps([len(text), time.monotonic() - start, peak() - before]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_cost_of_a_huge_text_is_proportional() -> None:
    command = [sys.executable, "-c", CODE, json.dumps(PIECES), str(BYTES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    measurements = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(measurements) == len(PIECES)
    for characters, seconds, _ in measurements:
        assert characters > 1_000_000
        assert seconds < SECONDS
    longest = max(characters for characters, _, _ in measurements)
    assert measurements[-1][2] < BYTES_PER_CHARACTER * longest / 2
