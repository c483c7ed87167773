"""Sixth step: a folder that anything can load which knows Hugging Face models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from rerank_plugins.backends._mini import cross_encoder_folder
from training.state import State

_COPIED: Final = ("config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS: Final = "model.safetensors"


def export(state: State, folder: Path) -> None:
    """Write the averaged weights in float16, the tokenizer and the configuration.

    Args:
        state: The training, at a checkpoint.
        folder: Where to; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        shutil.copyfile(cross_encoder_folder() / name, folder / name)
    tensors = {
        name: value.to(torch.float16).contiguous() for name, value in state.averaged().items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write_json(file: Path, content: object) -> None:
    """Write figures beside a model."""
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
