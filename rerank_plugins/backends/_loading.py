"""What every local backend shares when it loads a model."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers.utils.logging

from rerank_plugins.core.config import MINI, ModelConfig
from rerank_plugins.errors import ModelLoadError

# transformers' loading context (default data type, device) is process-wide state.
_LOADING = threading.Lock()


def locate(config: ModelConfig, mini: Callable[[], Path]) -> str:
    """Return what to load: a folder, or a Hub name.

    Args:
        config: The configuration that names the model.
        mini: Finds the folder of the embedded model.

    Raises:
        ModelLoadError: If the name can only be a folder and there is none.
    """
    if config.model == MINI:
        return str(mini())
    path = Path(config.model).expanduser()
    if path.is_dir():
        return str(path.resolve())
    hub_name = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", config.model)
    if hub_name is None or path.is_file():
        message = (
            f"there is no folder {config.model!r}. Give a folder with config.json and "
            'model.safetensors, a Hub name such as "BAAI/bge-reranker-v2-m3", or "mini".'
        )
        raise ModelLoadError(message)
    return config.model


@contextmanager
def quiet_loading(model: str) -> Iterator[None]:
    """Load one model at a time, silently, with every failure mapped to ModelLoadError."""
    with _LOADING:
        log = transformers.utils.logging
        bar, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
        log.disable_progress_bar()
        log.set_verbosity_error()
        try:
            yield
        except ModelLoadError:
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
            if bar:
                log.enable_progress_bar()


def hub_options(config: ModelConfig) -> dict[str, Any]:
    """Return the keyword arguments that transformers' ``from_pretrained`` methods share."""
    return {
        "revision": config.revision or "main",
        "cache_dir": config.cache_folder,
        "local_files_only": config.local_files_only,
        "trust_remote_code": config.trust_remote_code,
    }
