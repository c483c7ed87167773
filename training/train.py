"""Step ``train``: train from the last checkpoint until a step, a time or a signal."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.common import describe_environment
from rerank_plugins.evaluation.evaluator import write_bytes
from training.checkpoint import TrainState
from training.dataset import FILE_NAME, Dataset
from training.gradient_workers import GradientWorkers
from training.network import initial_model
from training.sampler import Sampler
from training.settings import Settings
from training.validation import Validation

_LOG_EVERY: Final = 20


class _StepRecord(NamedTuple):
    loss: float
    tokens: int
    norm: float
    seconds: float


class TrainLog:
    """Log of a run as a JSON file; each run writes its own file."""

    def __init__(self, folder: Path, settings: Settings, dataset: Dataset, prepared: Path) -> None:
        """Choose the next free number.

        Args:
            folder: Folder of the logs.
            settings: The configuration.
            dataset: The lists that are trained on.
            prepared: The folder that they were read from.
        """
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(file.stem) for file in folder.glob("[0-9]*.json")), default=0)
        self.file = folder / f"{number:04}.json"
        self._content: dict[str, Any] = {
            "settings": settings.model_dump(mode="json"),
            "input": {
                "sha256": sha256((prepared / FILE_NAME).read_bytes()).hexdigest(),
                "lists": len(dataset),
                "held_out": int(dataset.held_out.sum()),
            },
            "environment": describe_environment(),
            "steps": [],
            "validation": [],
        }

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add a row to ``steps`` or ``validation``."""
        self._content[name].append(row)

    def set(self, name: str, value: Any) -> None:  # noqa: ANN401  (any JSON)
        """Set a value."""
        self._content[name] = value

    def save(self) -> None:
        """Write the file atomically."""
        write_bytes(self.file, (json.dumps(self._content, indent=1) + "\n").encode())


class Trainer:
    """Training over a dataset, with checkpoints in a folder that a later run continues from."""

    def __init__(self, prepared: Path, folder: Path, settings: Settings) -> None:
        """Load the lists, the initial model, and the checkpoint if there is one.

        Args:
            prepared: Folder of the dataset.
            folder: Folder of checkpoints and logs.
            settings: The configuration.
        """
        self._settings = settings
        self._folder = folder
        self._dataset = Dataset.load(prepared)
        model = initial_model()
        self._sampler = Sampler(self._dataset, settings.seed, settings.train)
        self.state = TrainState(model, settings.train)
        self._resumed = self.state.load(folder)
        self._workers = GradientWorkers(model, self._dataset, self._sampler, settings.train)
        self._validation = Validation(self._dataset, self._sampler, list(settings.sources))
        self._log = TrainLog(folder / "runs", settings, self._dataset, prepared)
        self._records: list[_StepRecord] = []
        self._stopped = False

    def train(self, steps: int | None = None, seconds: float | None = None) -> None:
        """Train until a step, for a time, or until SIGTERM or SIGINT.

        Args:
            steps: Total number of steps, including those before the checkpoint; None is one
                epoch.
            seconds: Time limit of this run; None is no limit.
        """
        with suppress(ValueError):  # signals are received in the main thread only
            signal.signal(signal.SIGTERM, self._stop)
            signal.signal(signal.SIGINT, self._stop)
        steps = self._sampler.steps_per_epoch if steps is None else steps
        started = saved = monotonic()
        self._log.set("resumed_at", self.state.steps)
        if len(self._validation.lists):
            self._log.set("bi-encoder", self._validation.teacher_metrics())
            if not self._resumed:
                self._validate()
        with tqdm(total=steps, initial=self.state.steps, unit="step", disable=None) as bar:
            while self.state.steps < steps and not self._stopped:
                self._step()
                bar.update()
                now = monotonic()
                if self.state.steps % self._settings.train.validate_every_steps == 0:
                    self._validate()
                if now - saved > self._settings.train.save_every_s:
                    self._save()
                    saved = now
                if seconds is not None and now - started > seconds:
                    break
        self._save()
        self._workers.close()

    def summary(self) -> dict[str, Any]:
        """Return the figures of the training that a model card has."""
        return {
            "steps": self.state.steps,
            **self.state.counts,
            "lists_prepared": len(self._sampler),
            "settings": self._settings.model_dump(mode="json"),
            "validation": {
                "model": self._validation.metrics(self.held_out_scores()),
                "bi-encoder": self._validation.teacher_metrics(),
            },
        }

    def held_out_scores(self) -> NDArray[np.float32]:
        """Score the validation lists with the averaged weights, shape ``(lists, size)``."""
        self.state.swap_average()
        try:
            return self._validation.scores(self._workers)
        finally:
            self.state.swap_average()

    def _step(self) -> None:
        state, started = self.state, monotonic()
        micro_batches = self._sampler.step(state.steps)
        step = self._workers.gradients(micro_batches, list(state.weights.values()))
        norm = state.update(step.gradients)
        seconds = monotonic() - started
        state.counts["lists"] += len(step.losses)
        state.counts["tokens"] += step.tokens
        state.counts["seconds"] += seconds
        self._records.append(_StepRecord(float(step.losses.mean()), step.tokens, norm, seconds))
        if state.steps % _LOG_EVERY == 0:
            self._log_steps()

    def _log_steps(self) -> None:
        records, lists = self._records, self._settings.train.lists_per_step
        seconds = sum(record.seconds for record in records)
        row = {
            "step": self.state.steps,
            "loss": float(np.mean([record.loss for record in records])),
            "norm": float(np.mean([record.norm for record in records])),
            "pairs_per_s": len(records) * lists * self._dataset.documents.shape[1] / seconds,
            "tokens_per_s": sum(record.tokens for record in records) / seconds,
        }
        self._log.append("steps", row)
        self._records.clear()

    def _validate(self) -> None:
        """Measure the averaged weights on the held-out lists."""
        if not len(self._validation.lists):
            return
        scores = self.held_out_scores()
        loss = self._validation.loss(scores, self._settings.train)
        row = {"step": self.state.steps, "loss": loss}
        self._log.append("validation", row | self._validation.metrics(scores))
        self._log.save()

    def _save(self) -> None:
        self.state.save(self._folder)
        self._log.save()

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopped = True
