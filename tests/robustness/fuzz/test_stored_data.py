"""Damaged or forged files of caches, calibrators and conversions: refused, or correct."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import sqlite3
import tempfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import strategies as st

from rerank_plugins import Cache, Reranker
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import ModelIdentity
from tests.helpers.engines import PinnedCrossEncoder
from tests.robustness.fuzz.fuzz_budget import fuzz
from tests.robustness.fuzz.mutations import any_json, changed, damaged, encoded

QUERY: Final = "red apples"
TEXTS: Final = [f"text {number} about apples" for number in range(8)]


def rank(folder: Path | None) -> list[tuple[int, float, bool]]:
    """Rank with a new engine, like a new process."""
    with Reranker(PinnedCrossEncoder(), cache=Cache(folder=folder)) as reranker:
        ranking = reranker.rank(QUERY, TEXTS)
        return [(document.index, document.raw_score, document.truncated) for document in ranking]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Suppress the warning of each example."""
    log = logging.getLogger("rerank_plugins")
    before = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(before)


@pytest.fixture(scope="module")
def cached() -> Iterator[Path]:
    """A disk cache with the scores of the texts."""
    with tempfile.TemporaryDirectory() as name:
        assert rank(Path(name)) == rank(None)
        yield Path(name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, tuple[Any, ...]]:
    """Draw a change of the database by an SQL statement."""
    value = draw(
        st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=99)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    )  # fmt: skip
    column = draw(
        st.sampled_from(
            ["key", "raw", "store_time", "expire_time", "access_time", "access_count", "tag",
             "size", "mode", "filename", "value"]
        )
    )  # fmt: skip
    table = draw(st.sampled_from(["Cache", "Settings"]))
    if table == "Settings":
        return "UPDATE Settings SET value = ? WHERE rowid % 3 = 1", (value,)
    where = draw(st.sampled_from(["", " WHERE rowid % 2"]))
    return f"UPDATE OR IGNORE Cache SET {column} = ?{where}", (value,)  # noqa: S608


@fuzz(
    few=10, many=200, tampered=st.lists(statements(), max_size=3),
    damage=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 2**32)), data=st.data(),
)  # fmt: skip
def test_damaged_caches_cost_no_score(
    cached: Path, tampered: Any, damage: Any, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "kept"
        shutil.copytree(cached, folder)
        (database,) = folder.rglob("cache.db")
        for sql, values in tampered:
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute(sql, values)
        if damage is not None:
            files = _files(folder)
            file = files[damage[0] % len(files)]
            file.write_bytes(data.draw(damaged(file.read_bytes() or b"\0")))
        assert rank(folder) == rank(None)


def _calibrator(method: Any) -> bytes:
    scores, labels = np.linspace(-5, 5, 60), np.repeat([0, 1], 30)
    labels[[20, 40]] = 1, 0
    model = ModelIdentity("mini", None, "torch", "float32", 512)
    calibrator = Calibrator.fit(scores, labels, model=model, method=method)
    with tempfile.TemporaryDirectory() as name:
        calibrator.save(Path(name) / "file")
        return (Path(name) / "file").read_bytes()


CALIBRATORS: Final = [_calibrator("platt"), _calibrator("isotonic")]
_NAMES: Final = ("model", "mapping", "precision_curve", "scores", "points", "evil")


def _zipped(content: bytes) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("calibrator.json", content)
    return stream.getvalue()


BOMBS: Final = (
    b"[" * 1_000_000, b'{"a":' * 1_000_000, b"9" * 1_000_000, b"[1e999" + b",1e999" * 10**5 + b"]",
    gzip.compress(bytes(50_000_000)), _zipped(bytes(50_000_000)), b"\xff\xfe" * 1_000, b"", b"NaN",
)  # fmt: skip
calibrator_files = st.sampled_from(CALIBRATORS).flatmap(
    lambda valid: st.one_of(
        changed(json.loads(valid), _NAMES).map(encoded),
        damaged(valid),
        any_json.map(encoded),
        st.sampled_from(BOMBS),
    )
)


@fuzz(few=60, many=1200, content=calibrator_files)
def test_any_calibrator_is_refused_or_monotone(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "calibrator.json"
        file.write_bytes(content)
        tracemalloc.start()
        try:
            calibrator = Calibrator.load(file)
        except ConfigurationError as error:
            message = str(error)
            assert len(message) < 1_000
        else:
            probabilities = calibrator(np.linspace(-50, 50, 101, dtype=np.float32))
            assert ((probabilities >= 0) & (probabilities <= 1)).all()
            assert (np.diff(probabilities) >= 0).all()
            with suppress(ConfigurationError):
                assert np.isfinite(calibrator.threshold_for(0.5))
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 40 * 2**20


@pytest.fixture(scope="module")
def model_cache() -> Any:
    """The module of converted models; it needs OpenVINO."""
    return pytest.importorskip("rerank_plugins.backends.openvino.conversion", exc_type=ImportError)


@fuzz(few=4, many=100, number=st.integers(0, 2), data=st.data())
def test_damaged_conversions_are_rebuilt(
    model_cache: Any, number: int, data: st.DataObject
) -> None:
    openvino = model_cache.openvino
    built = []

    def build() -> Any:
        built.append(1)
        parameter = openvino.opset13.parameter([-1], np.float32)
        return openvino.Model([openvino.opset13.add(parameter, np.float32(5))], [parameter])

    with tempfile.TemporaryDirectory() as name:
        model_cache.load_or_build(Path(name), "key", build)
        files = _files(Path(name) / "key")
        assert len(files) == 3
        valid = files[number].read_bytes()
        if files[number].suffix == ".json":
            content = data.draw(
                changed(json.loads(valid)).map(encoded) | any_json.map(encoded) | damaged(valid)
            )
        else:
            content = data.draw(damaged(valid) | st.just(b""))
        files[number].write_bytes(content)
        model = model_cache.load_or_build(Path(name), "key", build)
        (result,) = openvino.compile_model(model, "CPU")([np.zeros(1, np.float32)])[0]
        assert result == 5
        assert len(built) == (1 if content == valid else 2) or files[number].suffix == ".json"
        assert os.listdir(name) == ["key"]
