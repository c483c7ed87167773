"""Interrupted downloads, and incomplete models in the cache of the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from rerank_plugins import Reranker
from rerank_plugins.errors import ModelLoadError
from tests.helpers.tiny_models import save_reranker
from tests.robustness.faults.hub import COMMIT, MODEL, WEIGHTS, Hub

PAIRS: Final = [("rain", "water"), ("who wrote faust", "goethe wrote faust")]
TOKEN: Final = "hf_NoSuchTokenAnywhere123456789"  # noqa: S105  (must not leak)

SCRIPT: Final = f"""
import json, logging, sys, urllib.request
logging.basicConfig(level=logging.DEBUG)
from rerank_plugins import Reranker
from rerank_plugins.errors import ModelLoadError

def scores(**settings):
    return Reranker({MODEL!r}, dtype="float32", **settings).score({PAIRS!r}).tolist()

def refused(**settings):
    try:
        scores(**settings)
    except ModelLoadError as error:
        logging.exception("as expected")
        return str(error)
    raise AssertionError

hub = sys.argv[1]
urllib.request.urlopen(hub + "/mode/" + sys.argv[2]).close()
if sys.argv[2] == "cut":
    print(json.dumps(refused()))
    print(json.dumps(refused(local_files_only=True)))
    urllib.request.urlopen(hub + "/mode/whole").close()
print(json.dumps(scores()))
"""


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker("bert", tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def expected_scores(saved_model: Path) -> NDArray[np.float64]:
    with Reranker(saved_model, dtype="float32") as reranker:
        return reranker.score(PAIRS)


@pytest.fixture
def hub(saved_model: Path) -> Iterator[Hub]:
    server = Hub(saved_model)
    yield server
    server.stop()


def start(hub: Hub, mode: str, home: Path) -> subprocess.Popen[str]:
    """Load the model in a new process: libraries read the address of the Hub on import."""
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_TOKEN": TOKEN,
    }
    return subprocess.Popen(  # noqa: S603  (a script of the tests)
        [sys.executable, "-c", SCRIPT, hub.url, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )


@pytest.mark.slow
def test_an_interrupted_download_fails_and_the_next_is_complete(
    hub: Hub, tmp_path: Path, expected_scores: NDArray[np.float64]
) -> None:
    process = start(hub, "cut", tmp_path)
    output, log = process.communicate(timeout=200)
    assert process.returncode == 0, log
    interrupted, partial, scores = output.splitlines()
    assert "cannot be loaded" in interrupted
    assert "cannot be loaded" in partial
    np.testing.assert_allclose(json.loads(scores), expected_scores, rtol=0, atol=1e-6)
    assert len(hub.ranges) > 2  # the client retries
    assert f"Bearer {TOKEN}" in hub.tokens
    assert "DEBUG" in log
    assert TOKEN not in log + output


@pytest.mark.slow
def test_a_process_killed_during_a_download_leaves_no_partial_model(
    hub: Hub, tmp_path: Path, expected_scores: NDArray[np.float64]
) -> None:
    killed = start(hub, "stalled", tmp_path)
    assert hub.half_sent.wait(100)
    killed.kill()
    killed.communicate(timeout=20)
    process = start(hub, "whole", tmp_path)
    output, log = process.communicate(timeout=200)
    assert process.returncode == 0, log
    np.testing.assert_allclose(json.loads(output), expected_scores, rtol=0, atol=1e-6)


def save_in_hub_cache(saved_model: Path, home: Path) -> Path:
    """Save a model in the layout of the Hub cache; return the folder of its files."""
    root = home / f"models--{MODEL.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT, "utf-8")
    (root / "blobs").mkdir()
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in saved_model.iterdir():
        blob = root / "blobs" / f"blob-of-{file.name}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def half(file: Path) -> None:
    content = file.read_bytes()
    file.resolve().write_bytes(content[: len(content) // 2])


def empty(file: Path) -> None:
    file.resolve().write_bytes(b"")


def incomplete(file: Path) -> None:
    """Leave the state of a download in progress."""
    blob = file.resolve()
    half(file)
    blob.rename(blob.with_name(blob.name + ".incomplete"))
    file.unlink()


DAMAGES: Final[dict[str, Callable[[Path], None]]] = {
    "missing": Path.unlink,
    "dangling link": lambda file: file.resolve().unlink(),
    "half": half,
    "empty": empty,
    "incomplete": incomplete,
}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_in_the_hub_cache_is_refused(
    saved_model: Path, tmp_path: Path, damage: str, name: str
) -> None:
    snapshot = save_in_hub_cache(saved_model, tmp_path)
    DAMAGES[damage](snapshot / name)
    settings = {"cache_folder": tmp_path, "local_files_only": True, "dtype": "float32"}
    with pytest.raises(ModelLoadError, match=MODEL):
        Reranker(MODEL, **settings).warm_up()  # type: ignore[arg-type]


def test_a_complete_model_in_the_hub_cache_is_loaded(
    saved_model: Path, tmp_path: Path, expected_scores: NDArray[np.float64]
) -> None:
    save_in_hub_cache(saved_model, tmp_path)
    with Reranker(MODEL, cache_folder=tmp_path, local_files_only=True, dtype="float32") as model:
        np.testing.assert_allclose(model.score(PAIRS), expected_scores, rtol=0, atol=1e-6)
