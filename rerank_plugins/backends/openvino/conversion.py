"""Converted models: found on disk or made, and compared with torch's results."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, Final, cast

import numpy as np
import openvino
from huggingface_hub import cached_assets_path
from numpy.typing import NDArray

from rerank_plugins._lazy import require
from rerank_plugins.backends.model_specs import OpenVINOSpec
from rerank_plugins.backends.openvino.export import Exportable, to_openvino
from rerank_plugins.backends.torch.loading import PROBES
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair

_SILENT: Final = {"CI": "true", "NNCF_CI": "1"}
"""What keeps both packages' telemetry from starting; they look when they are imported."""


def silent_import(name: str) -> ModuleType:
    """Import a package of the extra ``openvino`` with its telemetry off.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    before = {name: os.environ.get(name) for name in _SILENT}
    os.environ.update(_SILENT)
    try:
        return require(name, "openvino")
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


SETTINGS: Final = {
    "model_type": "transformer",
    "preset": "mixed",
    "fast_bias_correction": True,
    "ranges": "minmax",
}
"""Weights symmetric per channel, activations as their signs need, SmoothQuant's default, and
ranges as wide as anything seen: NNCF's mean of each text's range cuts off what counts."""


def quantize(
    model: openvino.Model, batches: Sequence[Sequence[Any]], exact: Sequence[str]
) -> openvino.Model:
    """Return the model in int8.

    Args:
        model: In float32; changed.
        batches: Its inputs for each calibration text.
        exact: Patterns of names that stay as they are.
    """
    nncf = silent_import("nncf")
    estimators = require("nncf.quantization.range_estimator", "openvino")
    with _quiet():
        quantized: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType(SETTINGS["model_type"]),
            preset=nncf.QuantizationPreset(SETTINGS["preset"]),
            fast_bias_correction=SETTINGS["fast_bias_correction"],
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(patterns=list(exact), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX
            ),
        )
    return quantized


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's log and progress bars off the screen."""
    console = require("rich", "openvino").get_console()
    log = logging.getLogger("nncf")
    quiet, level = console.quiet, log.level
    console.quiet = True
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        console.quiet = quiet
        log.setLevel(level)


_log = logging.getLogger(__name__)

_GRAPH: Final = "model.xml"
_WEIGHTS: Final = "model.bin"
_DIGESTS: Final = "digests.json"
_STALE_S: Final = 86_400.0
"""Nobody writes a model for a day."""
_CODE: Final = ("graphs.py", "embedding_graphs.py", "quantizing.py")


def store_key(parts: Mapping[str, Any]) -> str:
    """Return a name for what these parts determine, this package's own code included.

    Args:
        parts: Whatever a converted model depends on; JSON values.
    """
    folder = Path(__file__).parent
    code = [blake2b((folder / name).read_bytes()).hexdigest() for name in _CODE]
    text = json.dumps({**parts, "code": code}, sort_keys=True)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def store_folder(cache_folder: str | Path | None) -> Path:
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


_MAKERS: Final = ("openvino", "torch", "transformers")
_ALLOWED: Final = {"float32": 1e-4, "bfloat16": 0.02, "float16": 0.02, "int8": 0.3}
"""How far results may be from torch's in float32, in units of the largest of them plus 1."""


def build(
    config: ModelConfig,
    module: Exportable,
    calibration: Sequence[Sequence[NDArray[np.int64]]],
    fingerprint: str,
) -> openvino.Model:
    """Return the OpenVINO model of a module, from disk where it was converted before.

    Args:
        config: Resolved; its data type and where to keep the model.
        module: What to convert.
        calibration: Inputs of the module, on which int8 ranges are measured.
        fingerprint: Of the model's files; without one nothing is kept.
    """
    parts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "module": type(module).__name__,
        "inputs": module.inputs,
        "versions": {name: version(name) for name in _MAKERS},
    }
    if config.dtype == "int8":
        digest = blake2b()
        for array in (array for inputs in calibration for array in inputs):
            digest.update(repr(array.shape).encode() + array.tobytes())
        parts["nncf"] = {**SETTINGS, "version": version("nncf"), "texts": digest.hexdigest()}

    def make() -> openvino.Model:
        start = perf_counter()
        model = to_openvino(module)
        if config.dtype == "int8":
            model = quantize(model, calibration, module.exact)
        took = perf_counter() - start
        _log.info("%r was converted to %s in %.0f s.", config.model, config.dtype, took)
        return model

    if not fingerprint:
        return make()
    try:
        folder = store_folder(config.cache_folder)
    except (OSError, ValueError) as error:  # a read-only disk, or a file where a folder should be
        _log.warning("the converted %r is not kept: %s", config.model, error)
        return make()
    return stored_model(folder, store_key(parts), make)


def check_agreement(
    config: ModelConfig, found: NDArray[np.float32], wanted: NDArray[np.float32]
) -> None:
    """Compare what OpenVINO computes of awkward inputs with what torch computes.

    Raises:
        ModelLoadError: If it differs more than the data type explains.
    """
    difference = float(np.abs(found - wanted).max())
    allowed = _ALLOWED[config.dtype] * (1 + float(np.abs(wanted).max()))
    if not difference <= allowed:  # also if it is not a number
        message = (
            f"OpenVINO computes {config.model!r} in {config.dtype} differently from torch: by "
            f"{difference:g} on awkward texts, where {allowed:g} is allowed. Use "
            "backend='torch' (or 'sentence-transformers'), or another dtype."
        )
        raise ModelLoadError(message)


_FOLDER: Final = Path(__file__).parents[2] / "data" / "squad-dev"
_PAIRS: Final = 64


def calibration_pairs(config: ModelConfig) -> tuple[TextPair, ...]:
    """Return this package's pairs, awkward ones, and those of the configuration's settings.

    The user's only widen ranges: a few texts alone were measured to leave them far too narrow.
    """
    given = config.spec.calibration if isinstance(config.spec, OpenVINOSpec) else None
    return (*bundled_pairs(), *PROBES, *cast("tuple[TextPair, ...]", given or ()))


def bundled_pairs() -> tuple[TextPair, ...]:
    """Return pairs of the bundled texts; no judgment of any set is read.

    Every other one is a question beside a paragraph that stands far from it, the rest a
    paragraph's first sentence beside that paragraph: what has nothing to do with each
    other, and what has, spread over both files.
    """
    questions = _texts((_FOLDER / "queries.jsonl").read_bytes())
    paragraphs = _texts(gzip.decompress((_FOLDER / "corpus.jsonl.gz").read_bytes()))
    pairs = []
    for number in range(_PAIRS):
        paragraph = paragraphs[number * len(paragraphs) // _PAIRS]
        question = questions[-1 - number * len(questions) // _PAIRS]
        query = paragraph.split(". ")[0] if number % 2 else question
        pairs.append(TextPair(query, paragraph))
    return tuple(pairs)


def _texts(lines: bytes) -> list[str]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
    return [row["text"] for row in rows]
