"""Times this package beside its peers: ``python -m benchmarks.speed --data ../shared/data``.

Writes ``results/speed.json`` cell by cell; ``python -m benchmarks.tables`` then renews the
tables and plots in ``docs/performance.md``, which says how to build the peers' environments.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

import torch
import typer
from transformers import AutoTokenizer

from benchmarks.environment import ROOT, environment
from benchmarks.speed.cells import FULL, QUICK, QUICK_TEXTS, Cell
from benchmarks.speed.client import SystemFailedError
from benchmarks.speed.fleet import Fleet
from benchmarks.speed.limits import Limits
from benchmarks.speed.measure import measure
from benchmarks.speed.shapes import SHAPES, model_folder
from benchmarks.speed.systems import BASELINE, SYSTEMS, obstacle, reference
from benchmarks.speed.workloads import Request, requests, token_counts

RESULTS: Final = ROOT / "benchmarks" / "results" / "speed.json"
MINUTES: Final = {True: 2.0, False: 25.0}
CPU_THREADS: Final = 2
QUIET: Final = 0.05
"""Share of the cores that others may use."""


class Run:
    """Goes through the cells and writes down what each gives."""

    def __init__(
        self, fleet: Fleet, work: Path, data: Path, output: Path, results: dict[str, Any]
    ) -> None:
        """Begin with what was measured before.

        Args:
            fleet: The systems.
            work: Folder for models and rankings.
            data: Folder of the sets.
            output: Where the results go.
            results: What is there already.
        """
        self._fleet = fleet
        self._work = work
        self._data = data
        self._output = output
        self._results = results
        self._limits = Limits(fleet.device)

    def cell(self, cell: Cell, names: list[str], seconds: float) -> dict[str, Any]:
        """Measure a cell.

        Raises:
            SystemFailedError: If the baseline fails.
        """
        shape = SHAPES[cell.shape]
        most = QUICK_TEXTS if self._results["quick"] else None
        asked = [
            Request(one.query, one.texts[: cell.passages])
            for one in requests(cell.texts, self._data, self._work, most=most)
        ]
        model = model_folder(shape, self._work / cell.shape)
        tokenizer = AutoTokenizer.from_pretrained(model)
        truth = reference(self._fleet.device)
        processes = self._fleet.use(names, model)
        for name in (BASELINE, truth):
            if name not in processes:
                message = f"{name}: {self._fleet.failed[model.name, name]}"
                raise SystemFailedError(message)
        return measure(
            processes,
            asked,
            shape=shape,
            count_tokens=lambda request: token_counts(tokenizer, request),
            drop=self._fleet.drop,
            baseline=BASELINE,
            truth=truth,
            seconds=seconds,
            limits=self._limits,
        )

    def store(self, cell: Cell, found: dict[str, Any]) -> None:
        """Write a cell's figures beside those of the others."""
        self._results["systems"] |= self._fleet.loaded
        for (model, name), why in self._fleet.failed.items():
            self._results["skipped"][name] = f"with {model}: {why}"
        about = {"shape": cell.shape, "texts": cell.texts, "passages": cell.passages}
        self._results["cells"][cell.name] = {**about, **found}
        self._output.write_text(json.dumps(self._results, indent=1) + "\n", encoding="utf-8")


def chosen(
    only: list[str], device: str, environments: Path | None, *, slow: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the systems that can be timed, and why the others cannot.

    Raises:
        typer.BadParameter: If a name is none of a system.
    """
    unknown = set(only) - SYSTEMS.keys()
    if unknown:
        message = f"{', '.join(sorted(unknown))}: no such system; there are {', '.join(SYSTEMS)}"
        raise typer.BadParameter(message)
    needed = {BASELINE, reference(device)}
    wanted = [name for name in SYSTEMS if not only or name in needed or name in only]
    why = {
        name: obstacle(SYSTEMS[name], device, environments, slow=slow or name in only)
        for name in wanted
    }
    skipped = {name: reason for name, reason in why.items() if reason}
    return [name for name in wanted if name not in skipped], skipped


def main(
    *,
    data: Annotated[Path, typer.Option(help="Folder of the sets, in BEIR layout.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    quick: Annotated[bool, typer.Option(help="Small cells, two minutes.")] = False,
    environments: Annotated[Path | None, typer.Option(help="The peers' environments.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A system; repeat for more.")] = None,
    cells: Annotated[list[str] | None, typer.Option(help="A cell, as mini/nq/100.")] = None,
    slow: Annotated[bool, typer.Option(help="bfloat16 without hardware, too.")] = False,
    threads: Annotated[int | None, typer.Option(help="For each; 2 on a CPU, else all.")] = None,
    minutes: Annotated[float | None, typer.Option(help="No cell begins after these.")] = None,
    work: Annotated[Path | None, typer.Option(help="Keeps models and rankings.")] = None,
    resume: Annotated[bool, typer.Option(help="Keep the cells that are measured.")] = False,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Time all systems and write the figures as JSON."""
    begun = monotonic()
    end = begun + 60 * (minutes or MINUTES[quick])
    threads = threads or (os.cpu_count() or 1 if device.startswith("cuda") else CPU_THREADS)
    torch.set_num_threads(threads)
    names, skipped = chosen(only or [], device, environments, slow=slow)
    plan = [cell for cell in (QUICK if quick else FULL) if not cells or cell.name in cells]
    results: dict[str, Any] = {"cells": {}, "systems": {}}
    if resume and output.is_file():
        results = json.loads(output.read_text(encoding="utf-8"))
    results |= {
        "quick": quick,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": threads,
        "baseline": BASELINE,
        "skipped": skipped,
        "environment": environment(),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with Fleet(
            device=device, threads=threads, environments=environments, logs=folder / "logs"
        ) as fleet:
            run = Run(fleet, folder, data, output, results)
            for cell in plan:
                if resume and cell.name in results["cells"]:
                    continue
                if monotonic() > end:
                    typer.echo(f"{cell.name}: not begun, the time is up; go on with --resume")
                    continue
                seconds = min(cell.seconds, max(0.0, end - monotonic()))
                taking_part = [one for one in names if cell.everybody or SYSTEMS[one].core]
                found = run.cell(cell, taking_part, seconds)
                run.store(cell, found)
                _tell(cell, found)
    typer.echo(f"{monotonic() - begun:.0f} s; skipped: {json.dumps(results['skipped'])}")


def _tell(cell: Cell, found: dict[str, Any]) -> None:
    if (found["busy_elsewhere"] or 0) > QUIET:
        typer.echo(
            f"{cell.name}: others use {found['busy_elsewhere']:.0%} of the cores; these ratios are "
            "not those of a quiet machine"
        )
    for name, one in found["systems"].items():
        difference = one["largest_difference"]
        typer.echo(
            f"{cell.name} {name}: {one['speedup']:.2f} times, {one['pairs_per_s']:.1f} pairs/s, "
            f"difference {'no scores' if difference is None else f'{difference:.1e}'}"
        )


if __name__ == "__main__":
    typer.run(main)
