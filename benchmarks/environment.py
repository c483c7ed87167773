"""What a measurement depends on besides the code that it calls."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

ROOT: Final = Path(__file__).parents[1]
BUNDLED: Final = ROOT / "rerank_plugins" / "data" / "squad-dev"
"""The retrieval set that ships with the package."""

_PACKAGES: Final = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "scikit-learn",
    "langchain-core",
    "llama-index-core",
)


def environment() -> dict[str, Any]:
    """Return the machine, the versions and the commit; no date, no host name."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": commit(),
    }


def versions(about: dict[str, Any]) -> str:
    """Return the packages of an environment, for below a table."""
    return ", ".join(f"{name} {number}" for name, number in about["packages"].items())


def commit() -> str:
    """Return the git commit of the code, with ``+`` if it was changed since; "" without git."""
    git = shutil.which("git")
    if git is None:
        return ""

    def answer(*words: str) -> str:
        done = subprocess.run(  # noqa: S603
            [git, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = answer("status", "--porcelain", "rerank_plugins")
    return answer("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor()
