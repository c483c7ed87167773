"""Checkpoint of a training: weights, their moving average, and the state of the optimizer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rerank_plugins.errors import InvalidInputError
from training.network import trainable_weights
from training.settings import TrainSettings

FILE_NAME: Final = "state.safetensors"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class TrainState:
    """A model in training, with the state that a later run continues from.

    Attributes:
        model: The cross-encoder, with the weights of the last step.
        weights: Trained weights by name.
        average: Exponential moving average of each weight, in the same order.
        steps: Number of steps so far.
        counts: Totals so far: lists, tokens, seconds.
    """

    def __init__(self, model: Any, settings: TrainSettings) -> None:  # noqa: ANN401
        """Start with the weights of a model.

        Args:
            model: The cross-encoder, on its device; it is trained in place.
            settings: Settings of the optimizer.
        """
        self.model = model
        self.weights = trainable_weights(model)
        self.average = [weight.detach().clone() for weight in self.weights.values()]
        self._initial = [weight.clone() for weight in self.average]
        self.steps = 0
        self.counts = {"lists": 0, "tokens": 0, "seconds": 0.0}
        self._settings = settings
        matrices = [weight for weight in self.weights.values() if weight.ndim > 1]
        vectors = [weight for weight in self.weights.values() if weight.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)

    def update(self, gradients: list[torch.Tensor]) -> float:
        """Make an optimizer step and return the norm of the gradient before clipping."""
        for weight, gradient in zip(self.weights.values(), gradients, strict=True):
            weight.grad = gradient
        settings = self._settings
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), settings.max_grad_norm)
        warmup = min(1.0, (self.steps + 1) / (settings.warmup_steps + 1))
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * warmup
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.steps += 1
        # A fixed decay would keep the first steps in the average for too long.
        decay = min(settings.ema_decay, self.steps / (self.steps + 9))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.weights.values()), 1 - decay)
        return float(norm)

    def mix_in_initial(self, fraction: float) -> None:
        """Replace a fraction of the average by the initial weights of the model."""
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self._initial, fraction)

    def averaged_weights(self) -> dict[str, torch.Tensor]:
        """Return all weights of the model, with the average of the trained ones."""
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        averages = zip(self.weights, self.average, strict=True)
        return weights | {name: value.cpu() for name, value in averages}

    def swap_average(self) -> None:
        """Swap the weights of the model and their average; a second call swaps them back."""
        with torch.no_grad():
            for weight, average in zip(self.weights.values(), self.average, strict=True):
                last = weight.clone()
                weight.copy_(average)
                average.copy_(last)

    def save(self, folder: Path) -> None:
        """Write a checkpoint atomically: an interrupted write leaves the previous one."""
        tensors = {}
        for (name, weight), average in zip(self.weights.items(), self.average, strict=True):
            tensors[f"weight.{name}"] = weight.detach().contiguous()
            tensors[f"average.{name}"] = average.contiguous()
            moments = self._optimizer.state.get(weight, {})
            tensors |= {f"{part}.{name}": moments[part] for part in _MOMENTS if part in moments}
        notes = {"steps": self.steps, "counts": self.counts}
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{FILE_NAME}.unfinished"
        save_file(tensors, unfinished, metadata={"notes": json.dumps(notes)})
        os.replace(unfinished, folder / FILE_NAME)

    def load(self, folder: Path) -> bool:
        """Continue from a checkpoint; returns whether there is one.

        Raises:
            InvalidInputError: If the checkpoint is broken or of another model.
        """
        file = folder / FILE_NAME
        if not file.is_file():
            return False
        try:
            with safe_open(file, framework="pt", device=str(self.model.device)) as tensors:
                notes = json.loads(tensors.metadata()["notes"])
                self.steps, self.counts = notes["steps"], notes["counts"]
                for (name, weight), average in zip(self.weights.items(), self.average, strict=True):
                    weight.data.copy_(tensors.get_tensor(f"weight.{name}"))
                    average.copy_(tensors.get_tensor(f"average.{name}"))
                    if self.steps:
                        self._optimizer.state[weight] = {
                            "step": torch.tensor(float(self.steps), device=weight.device),
                            **{part: tensors.get_tensor(f"{part}.{name}") for part in _MOMENTS},
                        }
        except (SafetensorError, KeyError, RuntimeError) as error:
            message = f"{file} is not a checkpoint of this model ({error}); use another folder."
            raise InvalidInputError(message) from error
        return True
