"""Disk cache of converted models.

A model is a folder named by a key of everything that it depends on. It is written to a temporary
folder and then renamed, so readers never see an incomplete model, and its digests are checked
whenever it is read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import openvino
from huggingface_hub import cached_assets_path

_log = logging.getLogger(__name__)

_GRAPH: Final = "model.xml"
_WEIGHTS: Final = "model.bin"
_DIGESTS: Final = "digests.json"

_CODE: Final = ("export.py", "quantization.py")
"""Modules of this package that determine what a converted model computes."""

_STALE_S: Final = 86_400.0
"""Age of a temporary folder whose process must have been killed: writing never takes a day."""


def cache_key(parts: Mapping[str, Any]) -> str:
    """Return the key of a converted model.

    Args:
        parts: Everything the model depends on except the code of this package, which is added;
            JSON values.
    """
    folder = Path(__file__).parent
    code = [blake2b((folder / name).read_bytes()).hexdigest() for name in _CODE]
    text = json.dumps({**parts, "code": code}, sort_keys=True)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def models_folder(cache_folder: str | Path | None) -> Path:
    """Return the folder of converted models; it is created if it does not exist.

    Args:
        cache_folder: The user's download folder; None is Hugging Face's folder of assets
            (``HF_ASSETS_CACHE``, by default ``~/.cache/huggingface/assets``).
    """
    return cached_assets_path("rerank_plugins", "openvino", "models", assets_dir=cache_folder)


def load_or_build(folder: Path, key: str, build: Callable[[], openvino.Model]) -> openvino.Model:
    """Return the model of a key, read from the folder or else built and written there.

    A damaged model is rebuilt, and a model that cannot be written is still returned. Several
    processes may build the same model at once; one of the results is kept.

    Args:
        folder: See :func:`models_folder`.
        key: See :func:`cache_key`.
        build: Builds the model.
    """
    path = folder / key
    cached = _read(path)
    if cached is not None:
        return cached
    model = build()
    try:
        _write(path, model)
    except OSError as error:
        _log.warning("the converted model is not cached: %s cannot be written: %s", path, error)
    return model


def _read(path: Path) -> openvino.Model | None:
    try:
        expected = json.loads((path / _DIGESTS).read_bytes())
        if expected == _digests(path):
            return openvino.Core().read_model(path / _GRAPH)
        problem: object = "its files have changed"
    except FileNotFoundError:
        if not path.exists():
            return None
        problem = "it is incomplete"
    except (OSError, ValueError, RuntimeError) as error:
        problem = error
    _log.warning("the converted model %s is rebuilt: %s", path, problem)
    shutil.rmtree(path, ignore_errors=True)
    return None


def _write(path: Path, model: openvino.Model) -> None:
    _remove_stale(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    try:
        openvino.save_model(model, temporary / _GRAPH, compress_to_fp16=False)
        (temporary / _DIGESTS).write_text(json.dumps(_digests(temporary)), encoding="utf-8")
        for name in (_GRAPH, _WEIGHTS, _DIGESTS):
            _sync(temporary / name)
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():  # otherwise another process has written the same model
                raise
    except RuntimeError as error:  # raised by OpenVINO, for example if the disk is full
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Remove temporary folders of processes that were killed while they wrote."""
    for path in folder.glob(".*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)


def _digests(path: Path) -> dict[str, str]:
    digests = {}
    for name in (_GRAPH, _WEIGHTS):
        digest = blake2b(digest_size=32)
        with (path / name).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        digests[name] = digest.hexdigest()
    return digests


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
