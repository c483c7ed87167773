"""Converted models on disk: one key for everything that matters, never half of a model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerank_plugins import OpenVINOSpec, Reranker
from rerank_plugins.errors import MissingDependencyError
from tests.backends.test_parity import PAIRS
from tests.helpers.tiny_models import TEXTS, save_reranker

store: Any = pytest.importorskip(
    "rerank_plugins.backends.openvino.conversion", exc_type=ImportError
)
building: Any = pytest.importorskip("rerank_plugins.backends.openvino.conversion")
openvino = store.openvino


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker("bert", tmp_path_factory.mktemp("bert"))


def score(folder: Path | OpenVINOSpec, cache: Path, **settings: object) -> np.ndarray:
    settings = {"backend": "openvino", "dtype": "float32", "cache_folder": cache, **settings}
    with Reranker(folder, **settings) as reranker:  # type: ignore[arg-type]
        return reranker.score(PAIRS)


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "rerank_plugins" / "openvino" / "models").iterdir())


def add(number: float) -> Any:
    """Return a model that adds a number."""
    given = openvino.opset13.parameter([-1], np.float32)
    return openvino.Model([openvino.opset13.add(given, np.float32(number))], [given])


def adds(model: Any) -> float:
    return float(openvino.compile_model(model, "CPU")([np.zeros(1, np.float32)])[0][0])


def never() -> None:
    pytest.fail("a model that is kept was built again")


def test_a_model_is_converted_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(folder, tmp_path)
    monkeypatch.setattr(building, "to_openvino", lambda _: never())
    np.testing.assert_array_equal(score(folder, tmp_path), first)
    assert len(kept(tmp_path)) == 1


@pytest.mark.slow
def test_what_a_model_depends_on_is_in_its_key(tmp_path: Path) -> None:
    """Other weights, another precision, other texts, another version: another model."""
    one, other = (save_reranker(name, tmp_path / name) for name in ("bert", "electra"))
    texts = [[(text, text) for text in some] * 4 for some in (TEXTS[:3], TEXTS[3:])]
    models: list[tuple[Path | OpenVINOSpec, str]] = [
        (one, "float32"),
        (other, "float32"),
        (OpenVINOSpec(one, texts[0]), "int8"),
        (OpenVINOSpec(one, texts[1]), "int8"),
    ]
    for number, (model, dtype) in enumerate(models, start=1):
        for _ in range(2):
            score(model, tmp_path / "cache", dtype=dtype)
            assert len(kept(tmp_path / "cache")) == number


def test_the_maker_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.store_key({"versions": {"openvino": "1"}})
    assert before == store.store_key({"versions": {"openvino": "1"}})
    assert before != store.store_key({"versions": {"openvino": "2"}})
    monkeypatch.setattr(store, "_CODE", store._CODE[:1])
    assert before != store.store_key({"versions": {"openvino": "1"}}), "the code counts"


def flip(home: Path) -> None:
    file = home / "model.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": flip,
    "a weights file cut short": lambda home: os.truncate(home / "model.bin", 100),
    "no weights": lambda home: (home / "model.bin").unlink(),
    "no digests": lambda home: (home / "digests.json").unlink(),
    "digests that are no JSON": lambda home: (home / "digests.json").write_text("{"),
    "another graph": lambda home: (home / "model.xml").write_text("<net/>"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_seen_and_mended(
    damage: Callable[[Path], object],
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = score(folder, tmp_path)
    damage(kept(tmp_path)[0])
    np.testing.assert_array_equal(score(folder, tmp_path), wanted)
    assert "is built anew" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(score(folder, tmp_path), wanted)
    assert caplog.text == ""


def test_a_model_stands_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_to_disk", full)
        assert adds(store.stored_model(tmp_path, "key", lambda: add(1))) == 1, "used all the same"
        assert list(tmp_path.iterdir()) == []
    store.stored_model(tmp_path, "key", lambda: add(2))
    assert adds(store.stored_model(tmp_path, "key", never)) == 2


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    left, written = tmp_path / ".left", tmp_path / ".written"
    for path in (left, written):
        path.mkdir()
        (path / "model.bin").write_bytes(b"half")
    os.utime(left, (0, 0))
    store.stored_model(tmp_path, "key", lambda: add(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".written", "key"]


def test_a_folder_that_cannot_be_made_keeps_nothing_and_costs_no_score(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rerank_plugins").write_text("a file where a folder should be")
    np.testing.assert_allclose(score(folder, tmp_path), score(folder, tmp_path / "other"))
    assert "is not kept" in caplog.text


def test_many_may_build_the_same_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(store.stored_model, tmp_path, "key", lambda: add(3)) for _ in range(4)]
        assert [adds(call.result()) for call in calls] == [3] * 4
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("rerank_plugins.backends.openv")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[openvino\]"):
        Reranker(folder, backend="openvino").engine  # noqa: B018  (the property loads the model)


@pytest.mark.slow
def test_nothing_is_reported_to_anybody(folder: Path, tmp_path: Path) -> None:
    """No file of the telemetry appears in a fresh home, and no connection is tried."""
    code = f"""
import socket
def refuse(*_): raise SystemExit("a connection was tried")
socket.socket.connect = socket.create_connection = refuse
from rerank_plugins import Reranker
reranker = Reranker({str(folder)!r}, dtype="int8", cache_folder={str(tmp_path / "cache")!r})
reranker.score([("a", "b")])
"""
    home = tmp_path / "home"
    home.mkdir()
    kind = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "PY"))}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        env={**kind, "HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Statistics" not in done.stdout
    assert not (home / "intel").exists()
