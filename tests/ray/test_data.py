"""Batch reranking on a real cluster equals that in one process, even if an actor dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batch.test_job import GOOD, assert_ranked_like_single_queries, dead, lines, ranked
from tests.ray.live import ENVIRONMENT, ROOT, two_nodes

pytest.importorskip("ray.data", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

DATASET = """
import os, signal, sys
from pathlib import Path
import ray
from rerank_plugins.ray.data import rerank_dataset

source, output, kill = sys.argv[1:]
ray.init(log_to_driver=False)
killed = []

def progress(done, total):
    if kill == "kill" and done and not killed:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
                if line.startswith("ray::") and "UnitWorker" in line:
                    killed.append(int(folder.name))
                    os.kill(killed[0], signal.SIGKILL)
                    break

ds = ray.data.read_json(source, lines=True)
summary = rerank_dataset(
    ds, output, model="mini", dtype="float32", top_n=4, max_documents=10, actors=2,
    progress=progress,
)
ray.shutdown()
print(summary.rows, summary.ranked, summary.dead, summary.resumed, summary.units, len(killed))
"""


def run(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**ENVIRONMENT, "RAY_ADDRESS": address, "RAY_DATA_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_a_pool_of_actors_equals_one_process(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(GOOD), "utf-8")
    with two_nodes() as address:
        # A dataset; one of two actors is killed during the run.
        output = tmp_path / "dataset"
        completed = run(address, "-c", DATASET, str(source), str(output), "kill")
        assert completed.returncode == 0, completed.stderr[-3_000:]
        rows, good, bad, resumed, units, killed = map(int, completed.stdout.split()[-6:])
        assert (rows, good, bad, resumed, killed) == (6, 6, 0, 0, 1)
        assert_ranked_like_single_queries(ranked(output), GOOD, 4)
        again = run(address, "-c", DATASET, str(source), str(output), "no")
        assert again.stdout.split()[-6:] == ["6", "6", "0", str(units), str(units), "0"]

        # Files, by the command line, with an invalid row.
        source.write_text(lines([*GOOD, {"query": "q"}]), "utf-8")
        output = tmp_path / "files"
        command = ["-m", "rerank_plugins.cli", "batch", str(source), str(output)]
        options = ["--top-n", "4", "--max-documents", "10", "--actors", "2", "--dtype", "float32"]
        completed = run(address, *command, *options)
        assert completed.returncode == 1, completed.stderr[-3_000:]
        assert_ranked_like_single_queries(ranked(output), GOOD, 4)
        assert [row["reason"] for row in dead(output)] == ["documents is missing"]
        summary = json.loads((output / "summary.json").read_text("utf-8"))
        assert (summary["rows"], summary["ranked"], summary["dead"]) == (7, 6, 1)

        # A failed load is an error of this package, in addition to the log of Ray.
        completed = run(
            address, *command[:-1], str(tmp_path / "none"), "--model", str(tmp_path), *options
        )
        assert completed.returncode == 2
        assert "\nrerank-plugins: " in completed.stderr
