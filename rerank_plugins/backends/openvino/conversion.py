"""Conversion of torch modules to OpenVINO models, cached on disk and compared with torch."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol, cast

import numpy as np
import openvino
import torch
from huggingface_hub import cached_assets_path
from numpy.typing import NDArray
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from sentence_transformers import SentenceTransformer

from rerank_plugins._lazy import require
from rerank_plugins.backends.model_specs import OpenVINOSpec
from rerank_plugins.backends.openvino import import_without_telemetry
from rerank_plugins.backends.torch.loading import PROBES, ModularModel, first_position
from rerank_plugins.backends.torch.packing import is_bert_like, pooling_of
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ModelLoadError
from rerank_plugins.types import TextPair

_MASK_BIAS: Final = -10_000.0
"""Added to the attention logits of padding, whose weight is then 0 in float32."""


class Exportable(Protocol):
    """A torch module to export.

    Attributes:
        inputs: Number of its inputs, int64 tensors of shape ``(rows, width)``: ids, mask and, if
            there are three, token types.
        float32_patterns: Patterns of operator names that stay float32 in an int8 model.
    """

    inputs: int
    float32_patterns: tuple[str, ...]


def to_openvino(module: Exportable) -> openvino.Model:
    """Trace a module; the numbers of rows and of tokens stay dynamic."""
    inputs = module.inputs
    example = [torch.ones(2, 12, dtype=torch.int64) for _ in range(inputs)]
    example[1][1, 7:] = 0
    if inputs > 2:  # noqa: PLR2004  (ids, mask, types)
        example[2].zero_()
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns about values that become constants. A wrong constant changes scores,
        # and these are compared with torch's at every load.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(module, example_input=tuple(example))
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape(dict.fromkeys(range(inputs), openvino.PartialShape([-1, -1])))
    return model


def classifier_module(model: Any, *, typed: bool) -> Exportable:  # noqa: ANN401
    """Return the module to export for a reranker.

    Args:
        model: A sequence classification model.
        typed: Whether its tokenizer returns token types.
    """
    if is_bert_like(model) and not isinstance(model, ModularModel):
        return ClsOnlyClassifier(model)
    return Classifier(model, typed=typed)


class ClsOnlyClassifier(torch.nn.Module):
    """A BERT-like reranker that computes its last layer for the first token only."""

    inputs: int = 3
    float32_patterns: tuple[str, ...]

    def __init__(self, model: Any) -> None:  # noqa: ANN401  (one of many model classes)
        """Wrap a sequence classification model."""
        super().__init__()
        self._model = model
        self._base = getattr(model, model.base_model_prefix)
        self._first_position = first_position(model)
        # Computation for one token per row is cheap, and it determines the score.
        last = rf".*\.layer\.{len(self._base.encoder.layer) - 1}\."
        self.float32_patterns = (
            rf"{last}(attention\.self\.query|attention\.output|intermediate|output)\..*",
            r".*(pooler|classifier)\..*",
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return relevance logits of shape ``(rows,)`` for inputs of shape ``(rows, width)``."""
        base = self._base
        positions = torch.arange(ids.shape[1])[None] + self._first_position
        hidden = base.embeddings(input_ids=ids, token_type_ids=types, position_ids=positions)
        if hasattr(base, "embeddings_project"):  # ELECTRA
            hidden = base.embeddings_project(hidden)
        bias = ((1.0 - mask.float()) * _MASK_BIAS)[:, None, None, :]
        for layer in base.encoder.layer[:-1]:
            hidden = _layer_output(layer, hidden, hidden, bias)
        first = _layer_output(base.encoder.layer[-1], hidden[:, :1], hidden, bias)
        pooler = getattr(base, "pooler", None)
        logits: torch.Tensor = self._model.classifier(first if pooler is None else pooler(first))
        return logits[:, -1]


class Classifier(torch.nn.Module):
    """A reranker of any other architecture, unchanged."""

    def __init__(self, model: Any, *, typed: bool) -> None:  # noqa: ANN401
        """Wrap a sequence classification model, which may read token types."""
        super().__init__()
        self._model = model
        self.inputs = 3 if typed else 2
        self.float32_patterns: tuple[str, ...] = (r".*classifier\..*",)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return relevance logits of shape ``(rows,)`` for inputs of shape ``(rows, width)``."""
        options = {} if types is None else {"token_type_ids": types}
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, **options).logits
        return logits[:, -1]


class PooledEncoder(torch.nn.Module):
    """A transformer with mean or CLS pooling; its vectors are not normalized.

    Attributes:
        inputs: See :class:`Exportable`.
        float32_patterns: See :class:`Exportable`.
    """

    float32_patterns: tuple[str, ...] = ()

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        """Wrap a bi-encoder.

        Raises:
            ModelLoadError: If it has modules other than the supported ones.
        """
        super().__init__()
        modules: list[Any] = list(model)
        pooling = pooling_of(model)
        if pooling is None:
            kinds = ", ".join(type(module).__name__ for module in modules)
            mode = getattr(modules[1], "pooling_mode", None) if len(modules) > 1 else None
            message = (
                f"{name!r} consists of {kinds} (pooling {mode!r}); backend 'openvino' supports a "
                "Transformer, mean or CLS pooling that includes prompts, and Normalize. Use "
                "backend='sentence-transformers'."
            )
            raise ModelLoadError(message)
        self._mean = pooling == "mean"
        self._encoder = modules[0].auto_model
        typed = "token_type_ids" in model.tokenizer.model_input_names
        self.inputs = 3 if typed else 2

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return vectors of shape ``(rows, dimension)`` for inputs of shape ``(rows, width)``."""
        options = {} if types is None else {"token_type_ids": types}
        output = self._encoder(input_ids=ids, attention_mask=mask, **options)
        hidden: torch.Tensor = output.last_hidden_state
        if not self._mean:
            return hidden[:, 0]
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


def _layer_output(
    layer: Any,  # noqa: ANN401  (one of many layer classes)
    inputs: torch.Tensor,
    hidden: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """Return the output of a layer for some of its input tokens, which attend to all of them."""
    attention = layer.attention.self

    def heads(projected: torch.Tensor) -> torch.Tensor:
        rows, width = projected.shape[:2]
        return projected.view(rows, width, -1, attention.attention_head_size).transpose(1, 2)

    context = torch.nn.functional.scaled_dot_product_attention(
        heads(attention.query(inputs)),
        heads(attention.key(hidden)),
        heads(attention.value(hidden)),
        attn_mask=bias,
        scale=attention.scaling,
    )
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), inputs)
    output: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return output


_log = logging.getLogger(__name__)

_GRAPH: Final = "model.xml"
_WEIGHTS: Final = "model.bin"
_DIGESTS: Final = "digests.json"

_CODE: Final = ("conversion.py",)
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


SETTINGS: Final = {
    "model_type": "transformer",
    "preset": "mixed",
    "fast_bias_correction": True,
    "ranges": "minmax",
}
"""Weights are symmetric per channel, SmoothQuant has its default strength, and ranges cover every
value seen: NNCF's default, the mean of the ranges of all texts, clips values that matter."""

_DATASET: Final = Path(__file__).parents[2] / "data" / "squad-dev"
_BUNDLED_PAIRS: Final = 64


def quantize(
    model: openvino.Model, calibration: Sequence[Sequence[Any]], float32_patterns: Sequence[str]
) -> openvino.Model:
    """Return the model in int8.

    Args:
        model: The float32 model; it is changed.
        calibration: Model inputs of each calibration text.
        float32_patterns: Patterns of operator names that stay float32.
    """
    nncf = import_without_telemetry("nncf")
    estimators = require("nncf.quantization.range_estimator", "openvino")
    with _quiet_nncf():
        quantized: openvino.Model = nncf.quantize(
            model,
            nncf.Dataset(calibration),
            model_type=nncf.ModelType(SETTINGS["model_type"]),
            preset=nncf.QuantizationPreset(SETTINGS["preset"]),
            fast_bias_correction=SETTINGS["fast_bias_correction"],
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(patterns=list(float32_patterns), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX
            ),
        )
    return quantized


def calibration_pairs(config: ModelConfig) -> tuple[TextPair, ...]:
    """Return the text pairs on which the int8 ranges of a model are measured.

    The user's pairs are added to the bundled ones: measured on a few texts alone, ranges were far
    too narrow.
    """
    pairs = config.spec.calibration if isinstance(config.spec, OpenVINOSpec) else None
    return (*_bundled_pairs(), *PROBES, *cast("tuple[TextPair, ...]", pairs or ()))


def _bundled_pairs() -> Iterator[TextPair]:
    """Yield pairs of the bundled dataset, spread over its files; no relevance label is read.

    They alternate between unrelated pairs (a question and a distant paragraph) and related pairs
    (the first sentence of a paragraph and that paragraph).
    """
    questions = _texts((_DATASET / "queries.jsonl").read_bytes())
    paragraphs = _texts(gzip.decompress((_DATASET / "corpus.jsonl.gz").read_bytes()))
    for number in range(_BUNDLED_PAIRS):
        paragraph = paragraphs[number * len(paragraphs) // _BUNDLED_PAIRS]
        question = questions[-1 - number * len(questions) // _BUNDLED_PAIRS]
        yield TextPair(paragraph.split(". ")[0] if number % 2 else question, paragraph)


def _texts(lines: bytes) -> list[str]:
    return [json.loads(line)["text"] for line in lines.splitlines()]


@contextmanager
def _quiet_nncf() -> Iterator[None]:
    """Suppress NNCF's log messages and progress bars."""
    console = require("rich", "openvino").get_console()
    logger = logging.getLogger("nncf")
    quiet, level = console.quiet, logger.level
    console.quiet = True
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        console.quiet = quiet
        logger.setLevel(level)


_CONVERTERS: Final = ("openvino", "torch", "transformers")
"""Packages whose versions determine the converted model."""

_TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.02, "float16": 0.02, "int8": 0.3}
"""Largest difference from torch's float32 results, relative to the largest of them plus 1."""


def convert(
    config: ModelConfig,
    module: Exportable,
    calibration: Sequence[Sequence[NDArray[np.int64]]],
    fingerprint: str,
) -> openvino.Model:
    """Return the OpenVINO model of a module, from the disk cache if it was converted before.

    Args:
        config: Resolved configuration; its data type and its cache folder are used.
        module: The module to convert.
        calibration: Module inputs of each calibration text, for int8.
        fingerprint: Digest of the model's files; without one, the model is not cached.
    """

    def build() -> openvino.Model:
        start = perf_counter()
        model = to_openvino(module)
        if config.dtype == "int8":
            model = quantize(model, calibration, module.float32_patterns)
        seconds = perf_counter() - start
        _log.info("%r was converted to %s in %.0f s.", config.model, config.dtype, seconds)
        return model

    if not fingerprint:
        return build()
    try:
        folder = models_folder(config.cache_folder)
    except (OSError, ValueError) as error:  # a read-only disk, or a file in place of a folder
        _log.warning("the converted model %r is not cached: %s", config.model, error)
        return build()
    parts: dict[str, Any] = {
        "fingerprint": fingerprint,
        "module": type(module).__name__,
        "inputs": module.inputs,
        "versions": {name: version(name) for name in _CONVERTERS},
    }
    if config.dtype == "int8":
        digest = blake2b()
        for array in (array for inputs in calibration for array in inputs):
            digest.update(repr(array.shape).encode() + array.tobytes())
        parts["nncf"] = {**SETTINGS, "version": version("nncf"), "texts": digest.hexdigest()}
    return load_or_build(folder, cache_key(parts), build)


def validate_agreement(
    config: ModelConfig, results: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """Compare OpenVINO's results for the probes with torch's.

    Raises:
        ModelLoadError: If they differ more than the data type explains.
    """
    difference = float(np.abs(results - expected).max())
    tolerance = _TOLERANCE[config.dtype] * (1 + float(np.abs(expected).max()))
    if not difference <= tolerance:  # also if the difference is NaN
        message = (
            f"OpenVINO's results for {config.model!r} in {config.dtype} differ from torch's by "
            f"{difference:g}; at most {tolerance:g} is allowed. Use backend='torch' (for a "
            "bi-encoder 'sentence-transformers'), or another dtype."
        )
        raise ModelLoadError(message)
