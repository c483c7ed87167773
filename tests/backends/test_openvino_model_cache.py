"""Disk cache of converted models: keys, damaged files and concurrent writes."""

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

model_cache: Any = pytest.importorskip(
    "rerank_plugins.backends.openvino.conversion", exc_type=ImportError
)
conversion: Any = pytest.importorskip("rerank_plugins.backends.openvino.conversion")
openvino = model_cache.openvino


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker("bert", tmp_path_factory.mktemp("bert"))


def score(folder: Path | OpenVINOSpec, cache: Path, **settings: object) -> np.ndarray:
    settings = {"backend": "openvino", "dtype": "float32", "cache_folder": cache, **settings}
    with Reranker(folder, **settings, activation="none") as reranker:  # type: ignore[arg-type]
        return reranker.score(PAIRS)


def cached_models(cache: Path) -> list[Path]:
    return sorted((cache / "rerank_plugins" / "openvino" / "models").iterdir())


def add(number: float) -> Any:
    """Return a model that adds a number."""
    parameter = openvino.opset13.parameter([-1], np.float32)
    return openvino.Model([openvino.opset13.add(parameter, np.float32(number))], [parameter])


def adds(model: Any) -> float:
    return float(openvino.compile_model(model, "CPU")([np.zeros(1, np.float32)])[0][0])


def never() -> None:
    pytest.fail("a cached model was built again")


def test_a_model_is_converted_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(folder, tmp_path)
    monkeypatch.setattr(conversion, "to_openvino", lambda _: never())
    np.testing.assert_array_equal(score(folder, tmp_path), first)
    assert len(cached_models(tmp_path)) == 1


@pytest.mark.slow
def test_the_key_depends_on_weights_precision_and_texts(tmp_path: Path) -> None:
    """Other weights, precisions or calibration texts make another cached model."""
    bert, electra = (save_reranker(name, tmp_path / name) for name in ("bert", "electra"))
    texts = [[(text, text) for text in part] * 4 for part in (TEXTS[:3], TEXTS[3:])]
    models: list[tuple[Path | OpenVINOSpec, str]] = [
        (bert, "float32"),
        (electra, "float32"),
        (OpenVINOSpec(bert, texts[0]), "int8"),
        (OpenVINOSpec(bert, texts[1]), "int8"),
    ]
    for number, (model, dtype) in enumerate(models, start=1):
        for _ in range(2):
            score(model, tmp_path / "cache", dtype=dtype)
            assert len(cached_models(tmp_path / "cache")) == number


def test_the_key_depends_on_versions_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_cache.cache_key({"versions": {"openvino": "1"}})
    assert before == model_cache.cache_key({"versions": {"openvino": "1"}})
    assert before != model_cache.cache_key({"versions": {"openvino": "2"}})
    monkeypatch.setattr(model_cache, "_CODE", ("runtime.py",))
    assert before != model_cache.cache_key({"versions": {"openvino": "1"}}), (
        "the key depends on the code"
    )


def flip(home: Path) -> None:
    file = home / "model.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": flip,
    "truncated weights": lambda home: os.truncate(home / "model.bin", 100),
    "no weights": lambda home: (home / "model.bin").unlink(),
    "no digests": lambda home: (home / "digests.json").unlink(),
    "digests that are not JSON": lambda home: (home / "digests.json").write_text("{"),
    "another graph": lambda home: (home / "model.xml").write_text("<net/>"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_rebuilt(
    damage: Callable[[Path], object],
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = score(folder, tmp_path)
    damage(cached_models(tmp_path)[0])
    np.testing.assert_array_equal(score(folder, tmp_path), expected)
    assert "is rebuilt" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(score(folder, tmp_path), expected)
    assert caplog.text == ""


def test_a_model_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model_cache, "_sync", fail)
        assert adds(model_cache.load_or_build(tmp_path, "key", lambda: add(1))) == 1, (
            "the model is used without the cache"
        )
        assert list(tmp_path.iterdir()) == []
    model_cache.load_or_build(tmp_path, "key", lambda: add(2))
    assert adds(model_cache.load_or_build(tmp_path, "key", never)) == 2


def test_files_of_a_killed_process_are_removed_after_a_day(tmp_path: Path) -> None:
    stale, recent = tmp_path / ".stale", tmp_path / ".recent"
    for path in (stale, recent):
        path.mkdir()
        (path / "model.bin").write_bytes(b"half")
    os.utime(stale, (0, 0))
    model_cache.load_or_build(tmp_path, "key", lambda: add(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".recent", "key"]


def test_a_folder_that_cannot_be_created_disables_the_cache(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rerank_plugins").write_text("a file where a folder should be")
    np.testing.assert_allclose(score(folder, tmp_path), score(folder, tmp_path / "other"))
    assert "is not cached" in caplog.text


def test_threads_may_build_the_same_model_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(model_cache.load_or_build, tmp_path, "key", lambda: add(3))
            for _ in range(4)
        ]
        assert [adds(call.result()) for call in calls] == [3] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("rerank_plugins.backends.openv")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[openvino\]"):
        Reranker(folder, backend="openvino").engine  # noqa: B018  (the property loads the model)


@pytest.mark.slow
def test_no_telemetry_is_sent(folder: Path, tmp_path: Path) -> None:
    """Telemetry writes no file in a new home folder, and no connection is attempted."""
    code = f"""
import socket
def refuse(*_): raise SystemExit("a connection was attempted")
socket.socket.connect = socket.create_connection = refuse
from rerank_plugins import Reranker
reranker = Reranker({str(folder)!r}, dtype="int8", cache_folder={str(tmp_path / "cache")!r})
reranker.score([("a", "b")])
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("CI", "PY"))
    }
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Statistics" not in result.stdout
    assert not (home / "intel").exists()
