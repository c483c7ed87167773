"""Third step: train, from a checkpoint where there is one."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification

from rerank_plugins.backends._loading import quiet_loading
from rerank_plugins.backends._mini import cross_encoder_folder
from training.computing import Computer
from training.feeding import Feeder
from training.journal import Journal
from training.packed import Packed
from training.settings import Settings
from training.state import State
from training.validating import Validation

_NOTE_EVERY = 20


class _Made(NamedTuple):
    """What is told of a step."""

    loss: float
    tokens: int
    norm: float
    seconds: float


def start_model(source: Path | None = None) -> Any:  # noqa: ANN401
    """Load the model that training begins with, in float32, without dropout, on its device."""
    folder = str(source or cross_encoder_folder())
    with quiet_loading(folder):
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager"
        )
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


class Training:
    """A run over packed lists in a folder of its own, which it can be taken up in again."""

    def __init__(self, prepared: Path, folder: Path, settings: Settings, model: Any) -> None:  # noqa: ANN401
        """Load the lists, and the checkpoint if there is one.

        Args:
            prepared: The folder with the packed lists.
            folder: Where checkpoints and logs go.
            settings: The configuration.
            model: The cross-encoder to begin with.
        """
        own = settings.train
        self.packed = Packed.load(prepared)
        self.feeder = Feeder(self.packed, settings.seed, own.lists, own.group, own.max_length)
        self.state = State(model, own)
        self.resumed = self.state.load(folder)
        self.computer = Computer(model, self.packed, self.feeder, own)
        self.validation = Validation(self.packed, self.feeder, list(settings.sources))
        self.journal = Journal(folder / "runs", settings, self.packed, prepared)
        self._folder = folder
        self._all = settings
        self._settings = own
        self._recent: list[_Made] = []
        self._stopped = False

    def run(self, steps: int, seconds: float | None = None) -> None:
        """Train until a step, for a time, or until a signal asks for the end.

        Args:
            steps: How many there shall be in all, those before a checkpoint included.
            seconds: Most time; None is as long as it takes.
        """
        with suppress(ValueError):  # only a main thread hears signals
            signal.signal(signal.SIGTERM, self._stop)
            signal.signal(signal.SIGINT, self._stop)
        begun = saved = monotonic()
        self.journal.set("resumed_at", self.state.steps)
        if len(self.validation.lists):
            self.journal.set("bi-encoder", self.validation.teacher())
            if not self.resumed:
                self._validate()
        with tqdm(total=steps, initial=self.state.steps, unit="step", disable=None) as bar:
            while self.state.steps < steps and not self._stopped:
                self._step()
                bar.update()
                now = monotonic()
                if self.state.steps % self._settings.validate_every == 0:
                    self._validate()
                if now - saved > self._settings.save_every_s:
                    self.save()
                    saved = now
                if seconds is not None and now - begun > seconds:
                    break
        self.save()
        self.computer.close()

    def save(self) -> None:
        """Write the checkpoint and the log."""
        self.state.save(self._folder)
        self.journal.save()

    def summary(self) -> dict[str, Any]:
        """Return what a model card tells of the training."""
        return {
            "steps": self.state.steps,
            **self.state.counts,
            "lists_prepared": len(self.feeder),
            "settings": self._all.model_dump(mode="json"),
            "validation": {
                "model": self.validation.figures(self.held_out_scores()),
                "bi-encoder": self.validation.teacher(),
            },
        }

    def held_out_scores(self) -> NDArray[np.float32]:
        """Score the validation's lists with the averaged weights, shape ``(lists, size)``."""
        self.state.exchange()
        try:
            return self.validation.scored(self.computer)
        finally:
            self.state.exchange()

    def _step(self) -> None:
        state, begun = self.state, monotonic()
        done = self.computer.step(self.feeder.step(state.steps), list(state.weights.values()))
        norm = state.learn(done.gradients)
        took = monotonic() - begun
        state.counts["lists"] += len(done.losses)
        state.counts["tokens"] += done.tokens
        state.counts["seconds"] += took
        self._recent.append(_Made(float(done.losses.mean()), done.tokens, norm, took))
        if state.steps % _NOTE_EVERY == 0:
            self._note()

    def _note(self) -> None:
        made, own = self._recent, self._settings
        seconds = sum(one.seconds for one in made)
        row = {
            "step": self.state.steps,
            "loss": float(np.mean([one.loss for one in made])),
            "norm": float(np.mean([one.norm for one in made])),
            "pairs_per_s": len(made) * own.lists * self.packed.documents.shape[1] / seconds,
            "tokens_per_s": sum(one.tokens for one in made) / seconds,
        }
        self.journal.note("steps", row)
        self._recent.clear()

    def _validate(self) -> None:
        """Measure the averaged weights."""
        if not len(self.validation.lists):
            return
        scores = self.held_out_scores()
        row = {"step": self.state.steps, "loss": self.validation.loss(scores, self._settings)}
        self.journal.note("validation", row | self.validation.figures(scores))
        self.journal.save()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopped = True
