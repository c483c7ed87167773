"""Step ``export``: a model folder in the layout of Hugging Face, with figures as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from rerank_plugins.backends.hub import cross_encoder_folder
from training.checkpoint import TrainState
from training.settings import Settings
from training.train import Trainer
from training.validation import calibration

_COPIED: Final = ("config.json", "tokenizer.json", "tokenizer_config.json")
_WEIGHTS: Final = "model.safetensors"


def export(trainer: Trainer, folder: Path, settings: Settings) -> None:
    """Write the averaged weights of a training, its summary and the calibration.

    Args:
        trainer: The training, at a checkpoint.
        folder: Model folder; files of the same names are replaced.
        settings: The configuration.
    """
    trainer.state.mix_in_initial(settings.export.initial_fraction)
    write_model(trainer.state, folder)
    write_json(folder / "training.json", trainer.summary())
    scores = trainer.held_out_scores()
    write_json(folder / "calibration.json", calibration(scores, settings.seed))


def write_model(state: TrainState, folder: Path) -> None:
    """Write the averaged weights in float16, the tokenizer and the model configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        shutil.copyfile(cross_encoder_folder() / name, folder / name)
    weights = {
        name: value.to(torch.float16).contiguous()
        for name, value in state.averaged_weights().items()
    }
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})


def write_json(file: Path, content: object) -> None:
    """Write figures as JSON."""
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
