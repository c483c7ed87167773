"""The cells of the speed benchmark: which models, texts and numbers of passages are timed."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

import torch
from transformers import AutoTokenizer

from benchmarks.common import Row
from benchmarks.speed.measure import measure
from benchmarks.speed.models import SHAPES, model_folder
from benchmarks.speed.process import ProcessPool, SystemFailedError
from benchmarks.speed.systems import BASELINE, SYSTEMS, obstacle, reference
from benchmarks.speed.texts import Request, requests, token_counts

CPU_THREADS: Final = 2
QUIET: Final = 0.05
"""Share of the cores that other processes may use."""

QUICK_TEXTS: Final = 200
"""Texts of a set that a quick run uses."""


class Cell(NamedTuple):
    """One measurement.

    Attributes:
        shape: Name in :data:`benchmarks.speed.models.SHAPES`.
        texts: Name in :data:`benchmarks.speed.texts.TEXT_SETS`.
        passages: Candidates of each query.
        all_systems: Whether all systems take part, or only sentence-transformers and this package.
        seconds: Time limit of the rounds; at least two rounds run.
    """

    shape: str
    texts: str
    passages: int
    all_systems: bool
    seconds: float

    @property
    def name(self) -> str:
        """The name of the cell, such as ``mini/nq/100``."""
        return f"{self.shape}/{self.texts}/{self.passages}"


MAIN: Final = (
    Cell("mini", "nq", 10, all_systems=True, seconds=90),
    Cell("mini", "nq", 100, all_systems=True, seconds=300),
)
ALL: Final = (
    *MAIN,
    Cell("mini", "nq", 20, all_systems=False, seconds=25),
    Cell("mini", "nq", 50, all_systems=False, seconds=45),
    Cell("mini", "nq", 1_000, all_systems=False, seconds=120),
    Cell("mini", "faq", 10, all_systems=False, seconds=20),
    Cell("mini", "faq", 100, all_systems=False, seconds=60),
    Cell("mini", "long", 10, all_systems=False, seconds=30),
    Cell("mini", "long", 100, all_systems=False, seconds=100),
    Cell("minilm-l12", "nq", 20, all_systems=False, seconds=30),
    Cell("xlmr-base", "nq", 10, all_systems=False, seconds=40),
    Cell("xlmr-large", "nq", 10, all_systems=False, seconds=90),
)
QUICK: Final = (
    Cell("mini", "nq", 10, all_systems=True, seconds=15),
    Cell("mini", "faq", 20, all_systems=False, seconds=10),
    Cell("minilm-l12", "nq", 5, all_systems=False, seconds=10),
)
"""Small cells, which only show that everything runs."""

CELL_SETS: Final = {"main": MAIN, "all": ALL, "quick": QUICK}


def choose_cells(names: Sequence[str]) -> list[Cell]:
    """Return cells by the names of sets (``main``, ``all``, ``quick``) or of cells.

    Raises:
        ValueError: If a name is unknown.
    """
    by_name = {cell.name: cell for cell in ALL}
    chosen: list[Cell] = []
    for name in names:
        if name not in CELL_SETS and name not in by_name:
            known = ", ".join([*CELL_SETS, *by_name])
            message = f"unknown cell {name!r}; choose from {known}"
            raise ValueError(message)
        chosen += CELL_SETS.get(name) or [by_name[name]]
    return list(dict.fromkeys(chosen))


def choose_systems(
    names: Sequence[str], device: str, environments: Path | None, *, slow: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Return the systems that can be timed, and why the others cannot.

    The baseline and the reference always take part.

    Raises:
        ValueError: If a name is unknown.
    """
    if unknown := set(names) - SYSTEMS.keys():
        known = ", ".join(SYSTEMS)
        message = f"unknown system {', '.join(sorted(unknown))}; choose from {known}"
        raise ValueError(message)
    needed = {BASELINE, reference(device)}
    wanted = [name for name in SYSTEMS if not names or name in needed or name in names]
    reasons = {
        name: obstacle(SYSTEMS[name], device, environments, slow=slow or name in names)
        for name in wanted
    }
    skipped = {name: reason for name, reason in reasons.items() if reason}
    return [name for name in wanted if name not in skipped], skipped


def measure_cell(
    pool: ProcessPool, cell: Cell, names: Sequence[str], *, sets: Path, work: Path, seconds: float
) -> list[Row]:
    """Measure a cell.

    Raises:
        SystemFailedError: If the baseline or the reference fails.
    """
    quick = cell in QUICK
    made = requests(cell.texts, sets, work, max_texts=QUICK_TEXTS if quick else None)
    limited = [Request(request.query, request.texts[: cell.passages]) for request in made]
    model = model_folder(SHAPES[cell.shape], work / cell.shape)
    tokenizer = AutoTokenizer.from_pretrained(model)
    systems = [name for name in names if cell.all_systems or SYSTEMS[name].core]
    processes = pool.use(systems, model)
    for name in (BASELINE, reference(pool.device)):
        if name not in processes:
            message = f"{name}: {pool.failed[model.name, name]}"
            raise SystemFailedError(message)
    return measure(
        processes,
        limited,
        cell=cell.name,
        count_tokens=lambda request: token_counts(tokenizer, request),
        drop=pool.drop,
        baseline=BASELINE,
        reference=reference(pool.device),
        seconds=seconds,
    )


def measure_speed(
    sets: Path,
    cells: Sequence[Cell] = MAIN,
    systems: Sequence[str] = (),
    *,
    device: str = "cpu",
    environments: Path | None = None,
    slow: bool = False,
    threads: int | None = None,
    minutes: float = 25.0,
    work: Path | None = None,
) -> Iterator[tuple[list[Row], dict[str, Any]]]:
    """Yield the rows of each cell, and settings to record with them.

    Args:
        sets: Folder of the retrieval sets.
        cells: The cells.
        systems: The systems; all that can be timed if empty.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        environments: Folder of the peers' environments.
        slow: Whether to time bfloat16 on a CPU that only emulates it.
        threads: Threads of each system; 2 on a CPU, else all.
        minutes: No cell starts after this time.
        work: Folder that stores models and rankings; temporary if None.
    """
    on_gpu = device.startswith("cuda")
    threads = threads or (os.cpu_count() or 1 if on_gpu else CPU_THREADS)
    torch.set_num_threads(threads)
    names, skipped = choose_systems(systems, device, environments, slow=slow)
    end = monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPool(
            device=device, threads=threads, environments=environments, logs=folder / "logs"
        ) as pool:
            for cell in cells:
                if monotonic() > end:
                    sys.stderr.write(f"{cell.name}: not measured, no time is left\n")
                    continue
                seconds = min(cell.seconds, max(0.0, end - monotonic()))
                rows = measure_cell(pool, cell, names, sets=sets, work=folder, seconds=seconds)
                _warn_if_busy(rows)
                failed = {name: why for (_, name), why in pool.failed.items()}
                settings = {
                    "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
                    "threads": threads,
                    "baseline": SYSTEMS[BASELINE].title,
                    "quick": cell in QUICK,
                    "skipped": {**skipped, **failed},
                    "versions": dict(pool.versions),
                }
                yield rows, settings


def _warn_if_busy(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.metric == "busy_elsewhere" and row.value > QUIET:
            sys.stderr.write(
                f"{row.dataset}: other processes use {row.value:.0%} of the cores; the ratios "
                "differ from those of an idle machine\n"
            )
