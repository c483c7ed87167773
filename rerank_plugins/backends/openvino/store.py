"""Converted models on disk: written whole or not at all, checked before they are used."""

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
_STALE_S: Final = 86_400.0
"""Nobody writes a model for a day."""
_CODE: Final = ("graphs.py", "embedding_graphs.py", "quantising.py")


def store_key(parts: Mapping[str, Any]) -> str:
    """Return a name for what these parts determine, this package's own code included.

    Args:
        parts: Whatever a converted model depends on; JSON values.
    """
    folder = Path(__file__).parent
    code = [blake2b((folder / name).read_bytes()).hexdigest() for name in _CODE]
    text = json.dumps({**parts, "code": code}, sort_keys=True)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def store_folder(cache_folder: str | None) -> Path:
    """Return where converted models are kept, and make it.

    Args:
        cache_folder: Where the user keeps downloads; None is Hugging Face's folder of assets
            (``HF_ASSETS_CACHE``, by default ``~/.cache/huggingface/assets``).
    """
    return cached_assets_path("rerank_plugins", "openvino", "models", assets_dir=cache_folder)


def stored_model(folder: Path, key: str, build: Callable[[], openvino.Model]) -> openvino.Model:
    """Return the model of a key: read from the folder, or built and put there.

    A model that is damaged is built anew. One that cannot be written is used all the same.
    Processes that build the same one at the same time do no harm: one of them is kept.

    Args:
        folder: See :func:`store_folder`.
        key: See :func:`store_key`.
        build: Makes the model.
    """
    home = folder / key
    found = _read(home)
    if found is not None:
        return found
    model = build()
    try:
        _write(home, model)
    except OSError as error:
        _log.warning("the converted model is not kept: %s cannot be written: %s", home, error)
    return model


def _read(home: Path) -> openvino.Model | None:
    try:
        wanted = json.loads((home / _DIGESTS).read_bytes())
        if wanted == _digests(home):
            return openvino.Core().read_model(home / _GRAPH)
        problem: object = "its files have changed"
    except FileNotFoundError:
        if not home.exists():
            return None
        problem = "it is incomplete"
    except (OSError, ValueError, RuntimeError) as error:
        problem = error
    _log.warning("%s is built anew: %s", home, problem)
    shutil.rmtree(home, ignore_errors=True)
    return None


def _write(home: Path, model: openvino.Model) -> None:
    _sweep(home.parent)
    made = Path(tempfile.mkdtemp(prefix=".", dir=home.parent))
    try:
        openvino.save_model(model, made / _GRAPH, compress_to_fp16=False)
        (made / _DIGESTS).write_text(json.dumps(_digests(made)), encoding="utf-8")
        for name in (_GRAPH, _WEIGHTS, _DIGESTS):
            _to_disk(made / name)
        try:
            made.rename(home)
        except OSError:
            if not home.exists():  # else another process was first
                raise
    except RuntimeError as error:  # OpenVINO's own, as for a full disk
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left."""
    for path in folder.glob(".*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)


def _digests(home: Path) -> dict[str, str]:
    found = {}
    for name in (_GRAPH, _WEIGHTS):
        digest = blake2b(digest_size=32)
        with (home / name).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        found[name] = digest.hexdigest()
    return found


def _to_disk(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
