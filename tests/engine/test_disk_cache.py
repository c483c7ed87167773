"""The disk cache: equal scores and no errors, even with a damaged or locked folder."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import shutil
import sqlite3
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins import BiEncoder, Cache, Ranking, Reranker
from rerank_plugins.engine import disk_cache
from rerank_plugins.errors import ConfigurationError, MissingDependencyError
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import ModelIdentity
from tests.helpers.engines import PinnedBiEncoder, PinnedCrossEncoder
from tests.helpers.strategies import any_text, documents, queries

TEXTS = [f"text {number} about apples" for number in range(40)]
QUERY = "red apples"


def rank(folder: Path, texts: list[str] = TEXTS, **settings: Any) -> Ranking:
    """Rank with a new engine of the same weights, as a new process would; write all results."""
    with Reranker(PinnedCrossEncoder(), cache=Cache(folder=folder), **settings) as reranker:
        return reranker.rank(QUERY, texts)


def database(folder: Path) -> Path:
    (file,) = folder.rglob("cache.db")
    return file


def run_sql(folder: Path, sql: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(database(folder))) as connection, connection:
        return connection.execute(sql, values).fetchall()


def plain(ranking: Ranking) -> list[tuple[int, float, bool]]:
    return [(document.index, document.raw_score, document.truncated) for document in ranking]


def expected() -> list[tuple[int, float, bool]]:
    with Reranker(FakeCrossEncoder()) as reranker:
        return plain(reranker.rank(QUERY, TEXTS))


EXPECTED = expected()


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    def of() -> list[str]:
        return [
            record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
        ]

    return of


# --- results --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(st.tuples(queries, documents, st.sampled_from([16, 64, None])), max_size=5),
    st.sampled_from([0, 0.002, 1]),
)
def test_cache_on_equals_cache_off(
    requests: list[tuple[str, list[str], int | None]], cache_mb: float
) -> None:
    """Cold, warm and from another engine, with any texts, duplicates and lengths."""
    with tempfile.TemporaryDirectory() as name:
        for _ in range(2):
            backend, reference = PinnedCrossEncoder(), PinnedCrossEncoder()
            engines = set()
            for query, texts, length in requests:
                cached = Reranker(
                    backend, max_length=length, cache=Cache(folder=name, memory_mb=cache_mb)
                )
                plain = Reranker(reference, max_length=length)
                result, expected = cached.rank(query, texts), plain.rank(query, texts)
                assert result.documents == expected.documents
                assert result.stats == expected.stats
                assert result.stats.pairs == len(set(texts))
                engines |= {cached.engine, plain.engine}
            for engine in engines:
                assert engine.stats().disk_failures == 0
                engine.close()


@given(st.lists(any_text, min_size=1, max_size=6), st.none() | any_text)
@settings(max_examples=20)
def test_vectors_are_cached_by_role_and_prompt(texts: list[str], prompt: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        for hits in (False, True):
            prompts = None if prompt is None else {"query": prompt}
            cached = BiEncoder(PinnedBiEncoder(), prompts=prompts, cache=Cache(folder=name))
            plain = BiEncoder(PinnedBiEncoder(), prompts=prompts)
            np.testing.assert_array_equal(cached.encode_query(texts), plain.encode_query(texts))
            np.testing.assert_array_equal(
                cached.encode_document(texts), plain.encode_document(texts)
            )
            stats = cached.engine.stats()
            assert stats.disk_failures == 0
            assert not hits or stats.disk_hits == stats.cache_hits == 2 * len(texts)
            cached.close()
            plain.close()


def test_another_process_finds_the_results(tmp_path: Path) -> None:
    first, again = rank(tmp_path), rank(tmp_path)
    assert plain(first) == plain(again) == EXPECTED
    assert (first.stats.cache_hits, first.stats.disk_hits) == (0, 0)
    assert (again.stats.cache_hits, again.stats.disk_hits, again.stats.batches) == (40, 40, 0)


def test_memory_is_searched_before_the_disk(tmp_path: Path) -> None:
    rank(tmp_path, TEXTS[:30])
    backend = PinnedCrossEncoder()
    with Reranker(backend, cache=Cache(folder=tmp_path, memory_mb=1)) as reranker:
        engine = reranker.engine
        first, again = reranker.rank(QUERY, TEXTS), reranker.rank(QUERY, TEXTS)
        assert (first.stats.cache_hits, first.stats.disk_hits) == (30, 30)
        assert (again.stats.cache_hits, again.stats.disk_hits) == (40, 0)
        stats = engine.stats()
        assert (stats.cache_hits, stats.disk_hits, stats.cache_misses) == (70, 30, 10)
        assert sum(map(len, backend.batches)) == 10


def test_the_number_of_entries_in_memory_is_limited() -> None:
    with Reranker(PinnedCrossEncoder(), cache=Cache(memory_mb=1, max_entries=7)) as reranker:
        reranker.rank(QUERY, TEXTS)
        assert len(reranker.engine.cache.memory) == 7
        reranker.rank(QUERY, TEXTS[:7])
        assert reranker.rank(QUERY, TEXTS[:7]).stats.cache_hits == 7


def test_other_weights_find_nothing(tmp_path: Path) -> None:
    rank(tmp_path)
    with Reranker(PinnedCrossEncoder("1" * 64), cache=Cache(folder=tmp_path)) as reranker:
        assert reranker.rank(QUERY, TEXTS).stats.cache_hits == 0


def test_weights_that_changed_while_unloaded_are_distinguished(tmp_path: Path) -> None:
    backend = PinnedCrossEncoder()
    with Reranker(backend, cache=Cache(folder=tmp_path, memory_mb=1)) as reranker:
        reranker.rank(QUERY, TEXTS)
        backend.identity = PinnedCrossEncoder("1" * 64).identity
        reranker.rank(QUERY, ["anything that is computed"])
        assert reranker.rank(QUERY, TEXTS).stats.cache_hits == 0
    with Reranker(PinnedCrossEncoder("1" * 64), cache=Cache(folder=tmp_path)) as reranker:
        assert reranker.rank(QUERY, TEXTS).stats.disk_hits == 40


def test_the_folder_is_limited_and_the_oldest_results_are_evicted(tmp_path: Path) -> None:
    many = [f"{number} {text}" for number in range(400) for text in TEXTS]
    with Reranker(PinnedCrossEncoder(), cache=Cache(folder=tmp_path, folder_mb=1)) as reranker:
        for start in range(0, len(many), 2_000):
            reranker.rank(QUERY, many[start : start + 2_000])
            reranker.engine.cache.flush()
            assert database(tmp_path).stat().st_size < 1.2 * 2**20
        assert reranker.rank(QUERY, many[-500:]).stats.disk_hits == 500
        assert reranker.rank(QUERY, many[:500]).stats.disk_hits == 0


# --- configuration --------------------------------------------------------------------------


def test_a_model_without_a_fingerprint_is_refused(tmp_path: Path) -> None:
    reranker = Reranker(fake := FakeCrossEncoder(), cache=Cache(folder=tmp_path))
    with pytest.raises(ConfigurationError, match="neither a fingerprint nor a revision"):
        reranker.warm_up()
    with pytest.raises(ConfigurationError, match="neither a fingerprint nor a revision"):
        reranker.rank(QUERY, TEXTS)
    fake.identity = ModelIdentity("fake", "v1", "fake", "float32", 512)
    assert list(tmp_path.iterdir()) == []


def test_a_revision_is_enough(tmp_path: Path) -> None:
    hits = []
    for revision in ("v1", "v1", "v2"):
        backend = FakeCrossEncoder()
        backend.identity = ModelIdentity("fake", revision, "fake", "float32", 512)
        with Reranker(backend, cache=Cache(folder=tmp_path)) as reranker:
            hits.append(reranker.rank(QUERY, TEXTS).stats.disk_hits)
    assert hits == [0, 40, 0]


def test_an_engine_has_one_folder(tmp_path: Path) -> None:
    backend = PinnedCrossEncoder()
    with Reranker(backend, cache=Cache(folder=tmp_path / "one")) as reranker:
        assert (
            Reranker(backend, cache=Cache(folder=str(tmp_path / "one"))).engine is reranker.engine
        )
        assert Reranker(backend).engine.cache.folder == tmp_path / "one"
        with pytest.raises(ConfigurationError, match=r"two'.* uses .*one'"):
            _ = Reranker(backend, cache=Cache(folder=tmp_path / "two")).engine
    assert (
        Reranker(backend, cache=Cache(folder=tmp_path / "two")).engine.cache.folder
        == tmp_path / "two"
    )
    Reranker(backend).close()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diskcache", None)
    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[cache\]"):
        Reranker(PinnedCrossEncoder(), cache=Cache(folder=tmp_path)).warm_up()


def test_threads_end_with_the_engine(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        rank(tmp_path)
    backend = PinnedCrossEncoder()
    Reranker(backend, cache=Cache(folder=tmp_path)).rank(QUERY, TEXTS)
    del backend
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
def test_folder_and_files_are_private(tmp_path: Path) -> None:
    with Reranker(
        PinnedCrossEncoder(), cache=Cache(folder=tmp_path / "new" / "folder")
    ) as reranker:
        reranker.rank(QUERY, TEXTS)
    inside = [tmp_path / "new" / "folder", *(tmp_path / "new" / "folder").rglob("*")]
    assert len(inside) >= 3
    for path in inside:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


# --- faults ---------------------------------------------------------------------------------


def test_nothing_is_unpickled_written_as_a_file_or_removed(tmp_path: Path) -> None:
    rank(tmp_path)
    marker, precious = tmp_path / "executed", tmp_path / "precious"
    precious.write_text("keep me", "utf-8")

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    attack = pickle.dumps(Attack())
    outside = os.path.relpath(precious, database(tmp_path).parent)
    for mode, filename, value in ((4, None, attack), (4, outside, None), (2, outside, None)):
        run_sql(tmp_path, "UPDATE Cache SET mode=?, filename=?, value=?", mode, filename, value)
        run_sql(tmp_path, "UPDATE Cache SET expire_time = 1 WHERE rowid % 2")
        result = rank(tmp_path)
        assert (result.stats.cache_hits, plain(result)) == (0, EXPECTED)
        assert not marker.exists()
        assert precious.read_text("utf-8") == "keep me"
        assert rank(tmp_path).stats.disk_hits == 40  # the invalid values have been replaced
    run_sql(tmp_path, "UPDATE Settings SET value = ? WHERE key LIKE 'disk_%'", attack)
    assert plain(rank(tmp_path)) == EXPECTED
    assert not marker.exists()


def test_the_database_takes_bytes_only(tmp_path: Path) -> None:
    wrong: list[Any] = [(b"key", "text"), ("key", b"bytes"), (b"key", {}), ((), b"")]
    with closing(disk_cache._open_database(tmp_path, 2**20)) as opened:
        for key, value in wrong:
            with pytest.raises(OSError, match="keeps bytes, not"):
                opened.set(key, value)
        assert opened.get(b"key") is None


def damage_random_values(folder: Path) -> None:
    run_sql(folder, "UPDATE Cache SET value = randomblob(length(value))")


def damage_exchanged_values(folder: Path) -> None:
    values = [value for (value,) in run_sql(folder, "SELECT value FROM Cache ORDER BY rowid")]
    for row, value in enumerate(values[1:] + values[:1]):
        run_sql(folder, "UPDATE Cache SET value = ? WHERE rowid = ?", value, row + 1)


def damage_garbage(folder: Path) -> None:
    database(folder).write_bytes(b"garbage" * 10_000)


def damage_cut(folder: Path) -> None:
    os.truncate(database(folder), database(folder).stat().st_size // 2)


def damage_tables(folder: Path) -> None:
    run_sql(folder, "DROP TABLE Cache")


def damage_settings(folder: Path) -> None:
    run_sql(folder, "UPDATE Settings SET value = 'nonsense'")


def damage_file(folder: Path) -> None:
    parent = database(folder).parent
    shutil.rmtree(parent)
    parent.write_text("a file, no folder", "utf-8")


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]
each_damage = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


@each_damage
def test_a_damaged_folder_costs_no_score(
    tmp_path: Path, damage: Callable[[Path], None], warnings_of: Callable[[], list[str]]
) -> None:
    rank(tmp_path)
    damage(tmp_path)
    for _ in range(2):
        assert plain(rank(tmp_path)) == EXPECTED
    assert all("Scoring goes on without them" in warning for warning in warnings_of())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux lists the open files")
def test_a_damaged_database_is_closed(tmp_path: Path) -> None:
    rank(tmp_path)
    file = database(tmp_path)
    file.write_bytes(b"not a database" * 1_000)
    with pytest.raises(sqlite3.DatabaseError) as raised:  # its traceback keeps unclosed files open
        disk_cache._open_database(tmp_path, 2**20)
    opened = [
        os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()
    ]
    assert raised.tb is not None
    assert str(file) not in opened


@each_damage
def test_damage_while_in_use_costs_no_score(
    tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "_RETRY_AFTER_S", 0.0)
    with Reranker(PinnedCrossEncoder(), cache=Cache(folder=tmp_path)) as reranker:
        reranker.rank(QUERY, TEXTS)
        reranker.engine.cache.flush()
        damage(tmp_path)
        for _ in range(3):
            assert plain(reranker.rank(QUERY, TEXTS)) == EXPECTED


def test_a_folder_deleted_in_use_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_of: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(disk_cache, "_RETRY_AFTER_S", 0.0)
    folder = tmp_path / "scores"
    with Reranker(PinnedCrossEncoder(), cache=Cache(folder=folder)) as reranker:
        for _ in range(2):
            reranker.rank(QUERY, TEXTS)
            reranker.engine.cache.flush()
            shutil.rmtree(folder)
        for _ in range(3):
            assert plain(last := reranker.rank(QUERY, TEXTS)) == EXPECTED
            reranker.engine.cache.flush()
        assert last.stats.disk_hits == 40
        assert reranker.engine.stats().disk_failures >= 2
    assert len(warnings_of()) == 1
    assert str(folder) in warnings_of()[0]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the database, as another process would."""
    with closing(sqlite3.connect(database(folder), isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE Cache SET size = 0")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize("in_use", [False, True])
def test_a_locked_database_delays_no_request(tmp_path: Path, *, in_use: bool) -> None:
    rank(tmp_path, TEXTS[:9])
    reranker = Reranker(backend := PinnedCrossEncoder(), cache=Cache(folder=tmp_path))
    if in_use:
        assert reranker.rank(QUERY, TEXTS[:9]).stats.disk_hits == 9
    with locked(tmp_path):
        start = time.monotonic()
        for _ in range(5):
            assert plain(reranker.rank(QUERY, TEXTS)) == EXPECTED
        assert time.monotonic() - start < 3
    assert len(backend.batches) >= 5
    reranker.close()


@pytest.mark.parametrize(
    ("error", "locked"),
    [
        (sqlite3.OperationalError("database is locked"), True),
        (sqlite3.OperationalError("disk I/O error"), False),
        (OSError("locked"), False),
    ],
)
def test_a_locked_database_is_busy_and_not_broken(error: Exception, locked: bool) -> None:
    assert disk_cache._is_locked(error) is locked


def test_the_first_failure_is_a_warning_and_the_next_ones_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, disk_cache.__name__)
    cache = disk_cache.DiskCache(tmp_path, 2**20, ())
    cache.flush()
    for _ in range(3):
        cache._failed(OSError("broken"))
    cache.close(wait=True)
    levels = [
        record.levelno for record in caplog.records if "cannot be used" in record.getMessage()
    ]
    assert levels == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    assert cache.failures == 3


async def test_the_event_loop_never_waits_for_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()

    def open_slowly(*_: object) -> None:
        slow.wait(30)

    monkeypatch.setattr(disk_cache, "_open_database", open_slowly)
    reranker = Reranker(PinnedCrossEncoder(), cache=Cache(folder=tmp_path))
    lags = []

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.01)
            lags.append(time.perf_counter() - start)

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    assert plain(await reranker.arank(QUERY, TEXTS)) == EXPECTED
    assert time.perf_counter() - start < 10
    watching.cancel()
    assert max(lags) < 0.5
    start = time.perf_counter()
    assert plain(await reranker.arank(QUERY, TEXTS)) == EXPECTED
    assert time.perf_counter() - start < 1.5  # only the first request waits
    slow.set()
    reranker.close()
