"""Weights, their average and the optimiser's memory: what a run goes on from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rerank_plugins.errors import InvalidInputError
from training.network import trained
from training.settings import Train

NAME: Final = "state.safetensors"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class State:
    """A model in training.

    Attributes:
        model: The cross-encoder, with the weights of the last step.
        weights: Those that are trained, by name.
        average: Exponential average of each, in the same order.
        steps: How many steps were made.
        counts: What else is kept with the weights: lists and tokens seen, seconds of work.
    """

    def __init__(self, model: Any, settings: Train) -> None:  # noqa: ANN401
        """Begin at a model's own weights.

        Args:
            model: The cross-encoder, on its device; it is trained in place.
            settings: Of the optimisation.
        """
        self.model = model
        self.weights = trained(model)
        self.average = [weight.detach().clone() for weight in self.weights.values()]
        self._start = [weight.clone() for weight in self.average]
        self.steps = 0
        self.counts = {"lists": 0, "tokens": 0, "seconds": 0.0}
        self._settings = settings
        matrices = [weight for weight in self.weights.values() if weight.ndim > 1]
        vectors = [weight for weight in self.weights.values() if weight.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)

    def learn(self, gradients: list[torch.Tensor]) -> float:
        """Make a step, and return the norm of the gradient before it was clipped."""
        for weight, gradient in zip(self.weights.values(), gradients, strict=True):
            weight.grad = gradient
        settings = self._settings
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), settings.clip)
        rise = min(1.0, (self.steps + 1) / (settings.warmup + 1))
        for group in self._optimiser.param_groups:
            group["lr"] = settings.learning_rate * rise
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.steps += 1
        # The first steps count for less and less; a fixed decay would keep the beginning.
        decay = min(settings.average, self.steps / (self.steps + 9))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.weights.values()), 1 - decay)
        return float(norm)

    def mix_in_start(self, share: float) -> None:
        """Replace a share of the average by the weights that the model came with."""
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self._start, share)

    def averaged(self) -> dict[str, torch.Tensor]:
        """Return all weights of the model, the trained ones averaged."""
        own = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        names = zip(self.weights, self.average, strict=True)
        return own | {name: value.cpu() for name, value in names}

    def exchange(self) -> None:
        """Put the average into the model and the last weights aside, or back again."""
        with torch.no_grad():
            for weight, other in zip(self.weights.values(), self.average, strict=True):
                kept = weight.clone()
                weight.copy_(other)
                other.copy_(kept)

    def save(self, folder: Path) -> None:
        """Write a checkpoint at once: a run that dies meanwhile leaves the one before."""
        tensors = {}
        for (name, weight), average in zip(self.weights.items(), self.average, strict=True):
            tensors[f"weight.{name}"] = weight.detach().contiguous()
            tensors[f"average.{name}"] = average.contiguous()
            memory = self._optimiser.state.get(weight, {})
            tensors |= {f"{part}.{name}": memory[part] for part in _MOMENTS if part in memory}
        notes = {"steps": self.steps, "counts": self.counts}
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{NAME}.unfinished"
        save_file(tensors, unfinished, metadata={"notes": json.dumps(notes)})
        os.replace(unfinished, folder / NAME)

    def load(self, folder: Path) -> bool:
        """Go on from a checkpoint; returns whether there was one.

        Raises:
            InvalidInputError: If it is broken, or of another model.
        """
        file = folder / NAME
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
                        self._optimiser.state[weight] = {
                            "step": torch.tensor(float(self.steps), device=weight.device),
                            **{part: tensors.get_tensor(f"{part}.{name}") for part in _MOMENTS},
                        }
        except (SafetensorError, KeyError, RuntimeError) as error:
            message = f"{file} is no checkpoint of this model ({error}); train in another folder."
            raise InvalidInputError(message) from error
        return True
