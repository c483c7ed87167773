"""Processes share a folder: correct scores and no errors, even if one is killed or forks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest

from rerank_plugins import Cache, Reranker
from tests.helpers.engines import PinnedCrossEncoder

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="needs fork, limits or users")

START = """
import logging, os, random, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
from pathlib import Path
from rerank_plugins import Cache, Reranker
from rerank_plugins.testing import overlap
from tests.helpers.engines import PinnedCrossEncoder

folder = Path(sys.argv[1])

def work(seed, rounds, reranker=None):
    chance = random.Random(seed)
    reranker = reranker or Reranker(PinnedCrossEncoder(), cache=Cache(folder=folder))
    hits = 0
    for number in range(rounds):
        if number % 5 == 1:
            reranker.engine.cache.flush()
        query = f"query {chance.randrange(20)}"
        texts = [f"text {chance.randrange(100)} on {query}" for _ in range(50)]
        ranking = reranker.rank(query, texts)
        for document in ranking:
            error = abs(document.raw_score - overlap(query, document.text))
            assert error < 1e-6, (query, document)
        hits += ranking.stats.disk_hits
    stats = reranker.engine.stats()
    reranker.close()
    return hits, stats.disk_failures
"""


def start(folder: Path, script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  (our own script)
        [sys.executable, "-W", "error", "-c", START + textwrap.dedent(script), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def end(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, ""), errors
    return output


def check_intact(folder: Path) -> int:
    """Check the database; return the number of results."""
    (file,) = folder.rglob("cache.db")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(connection.execute("SELECT count(*) FROM Cache").fetchone()[0])


def test_processes_read_and_write_at_once(tmp_path: Path) -> None:
    script = "import os; hits, failures = work(os.getpid(), 60); print(hits > 0)"
    processes = [start(tmp_path, script) for _ in range(4)]
    assert [end(process) for process in processes] == ["True\n"] * 4
    assert check_intact(tmp_path) > 1_000


def test_a_process_killed_in_the_middle_of_a_write_leaves_no_damage(tmp_path: Path) -> None:
    script = "print('go', flush=True); work(os.getpid(), 10**6)"
    for number in range(6):
        process = start(tmp_path, script)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(0.05 + 0.07 * number)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode < 0
    assert check_intact(tmp_path) > 0
    assert end(start(tmp_path, "hits, failures = work(1, 60); print(hits > 0)")) == ("True\n")


@posix
def test_processes_share_the_folder_with_one_killed_inside_a_transaction(tmp_path: Path) -> None:
    """Two processes check every score while others kill themselves before they commit."""
    rank = """
    query = "killed in the middle"
    texts = [f"text {number} on {query}" for number in range(50)]
    reranker = Reranker(PinnedCrossEncoder(), cache=Cache(folder=folder))
    ranking = reranker.rank(query, texts)
    assert all(abs(doc.raw_score - overlap(query, doc.text)) < 1e-6 for doc in ranking)
    print(ranking.stats.disk_hits, flush=True)
    reranker.engine.cache.flush()
    """
    kill = """
    import diskcache, signal
    store = diskcache.Cache.set
    def store_and_die(self, *arguments):
        store(self, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    diskcache.Cache.set = store_and_die
    """
    check = "hits, failures = work(os.getpid(), 150); print(hits > 0)"
    processes = [start(tmp_path, check) for _ in range(2)]
    for _ in range(2):
        killed = start(tmp_path, kill + rank)
        _, errors = killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL, errors
    assert [end(process) for process in processes] == ["True\n"] * 2
    assert [end(start(tmp_path, rank)) for _ in range(2)] == ["0\n", "50\n"]
    assert check_intact(tmp_path) > 1_000


@posix
def test_forked_children_share_the_folder_too(tmp_path: Path) -> None:
    """Children are forked while the parent reads and writes, and do the same."""
    output = end(
        start(
            tmp_path,
            """
            import threading
            # Import everything now: an import that runs during a fork stays locked in the child.
            elsewhere = folder.with_name(f"{folder.name}-elsewhere")
            work(0, 2, Reranker(PinnedCrossEncoder(), cache=Cache(folder=elsewhere)))
            reranker = Reranker(PinnedCrossEncoder(), cache=Cache(folder=folder))
            parent = threading.Thread(target=lambda: print(work(0, 150)[0] > 0))
            parent.start()
            children = []
            for number in range(8):
                time.sleep(0.03)
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        hits, failures = work(number, 25)
                        code = 0 if hits else 2
                    finally:
                        os._exit(code)
                children.append(child)
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            parent.join()
            print(codes)
            """,
        )
    )
    assert output.splitlines() == ["True", str([0] * 8)]
    assert check_intact(tmp_path) > 1_000


def test_the_results_of_a_short_script_are_written_before_it_ends(tmp_path: Path) -> None:
    script = """
    model = PinnedCrossEncoder()
    reranker = Reranker(model, cache=Cache(folder=folder))
    print(reranker.rank("query", ["a", "b", "c"]).stats.disk_hits)
    """
    assert [end(start(tmp_path, script)) for _ in range(2)] == ["0\n", "3\n"]


@posix
def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    script = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    hits, failures = work(1, 60)
    print(failures > 0)
    """
    first, *rest = end(start(tmp_path, script)).splitlines()
    assert first.startswith(f"WARNING the scores cached in {tmp_path} cannot be used (Operational")
    assert rest == ["True"]
    assert end(start(tmp_path, "print(work(1, 60)[1])")) == "0\n"


@posix
@pytest.mark.parametrize("filled", [False, True])
def test_a_folder_without_write_permission_is_a_warning(*, filled: bool) -> None:
    script = """
    work(1, 0, other := Reranker(PinnedCrossEncoder()))  # everything is imported by now
    import diskcache
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    hits, failures = work(1, 20)
    print(failures)
    """
    with tempfile.TemporaryDirectory() as name:  # other users have no access to pytest's folder
        folder = Path(name)
        if filled:
            with Reranker(PinnedCrossEncoder(), cache=Cache(folder=folder)) as reranker:
                reranker.rank("query", ["text"])
        for path in [*folder.rglob("*"), folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        warning, failures = end(start(folder, script)).splitlines()
        assert warning.startswith(f"WARNING the scores cached in {folder} cannot be used")
        assert failures == "1"
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700)
