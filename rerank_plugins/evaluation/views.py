"""Result tables for rich's console, and the plot of a plan."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rerank_plugins._lazy import require
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.evaluator import write_bytes
from rerank_plugins.evaluation.metrics import compare, paired_bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from rich.console import Group
    from rich.table import Table

    from rerank_plugins.evaluation.evaluator import Evaluation
    from rerank_plugins.evaluation.planner import Plan
    from rerank_plugins.evaluation.sweeper import Cell, Sweep

_COLORS: Final = ("#3b6fb6", "#d97706", "#4d9a6a", "#8b5fbf", "#b5485d", "#5f7d8c")


def new_table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of plain texts, the first column to the left; an empty row is a line.

    Raises:
        MissingDependencyError: If the extra ``cli`` is not installed.
    """
    text = require("rich.text", "cli").Text
    table: Table = require("rich.table", "cli").Table(caption=text(caption), caption_justify="left")
    for number, name in enumerate(columns):
        justify: Any = "right" if number else "left"
        table.add_column(text(name), justify=justify, no_wrap=number > 0, min_width=5)
    for row in rows:
        if row:
            table.add_row(*map(text, row))
        else:
            table.add_section()
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return a table with one column per system: rank, measures, latency and memory."""
    first, *others = evaluation.measures
    comparison = compare(evaluation, first)
    caption = (
        f"{len(evaluation.questions)} questions, {evaluation.documents:,} documents, depth "
        f"{evaluation.depth}. Ranks by {first}; systems that do not differ significantly "
        f"(permutation test, Holm, {comparison.alpha:g}) are tied"
    )
    if comparison.pairs:
        caption += f": {len(comparison.ties)} of {len(comparison.pairs)} pairs"
    standings = comparison.standings
    systems = [evaluation[standing.name] for standing in standings]
    peaks = [system.peak_memory_mib for system in systems]
    rows = [
        ["rank", *(standing.rank for standing in standings)],
        [],
        [first, *(f"{standing.mean.mean:.3f}" for standing in standings)],
        ["  95% interval", *(f"{item.mean.low:.3f} to {item.mean.high:.3f}" for item in standings)],
        *([name, *(f"{system.mean(name):.3f}" for system in systems)] for name in others),
        [],
        *(
            [f"{name} ms", *(f"{system.latency_ms[name]:,.1f}" for system in systems)]
            for name in systems[0].latency_ms
        ),
        ["questions/s", *(f"{system.queries_per_second:,.1f}" for system in systems)],
        ["peak MiB", *("?" if peak is None else f"{peak:,.0f}" for peak in peaks)],
    ]
    return new_table(f"{caption}.", ["", *(system.name for system in systems)], rows)


def sweep_table(sweep: Sweep) -> Table:
    """Return a table with one row per cell: the first measure, its gain, the latency."""
    first = sweep.measures[0]
    base, *_ = values = [np.array(cell.values[first]) for cell in sweep.cells]
    caption = (
        f"{len(sweep.questions)} questions, {sweep.documents:,} documents. Gain over the "
        "bi-encoder with its own interval; * where the interval does not contain 0."
    )
    rows = []
    for cell, row in zip(sweep.cells, values, strict=True):
        gain = paired_bootstrap(base, row)
        rows.append(
            [
                cell.label + ("" if gain.verdict == "no clear difference" else " *"),
                f"{row.mean():.3f}",
                f"{gain.mean:+.3f}" if cell.steps else "",
                f"{gain.low:+.3f} to {gain.high:+.3f}" if cell.steps else "",
                *(f"{latency:,.0f}" for latency in cell.latency_ms),
            ]
        )
    columns = ("reranker", first, "gain", "95% interval", "p50 ms", "p95 ms")
    return new_table(caption, columns, rows)


def plan_view(plan: Plan) -> Group:
    """Return a plan's summary and a table of its most relevant options."""
    sweep = plan.sweep
    caption = (
        f"{len(sweep.questions)} questions, {sweep.documents:,} documents, measured in "
        f"{plan.seconds:.0f} s. Options that no other beats in both quality and latency, and "
        "the best of each setup, with 95% intervals."
    )
    rows = []
    for cell in plan.highlights:
        quality, latency = cell.interval(plan.measure), cell.latency_ms
        remark = "over budget" if latency[1] > plan.budget_ms else ""
        rows.append(
            [
                cell.label,
                f"{quality.mean:.3f}",
                f"{quality.low:.3f} to {quality.high:.3f}",
                *(f"{milliseconds:,.0f}" for milliseconds in latency),
                "use this" if cell is plan.recommended else remark,
            ]
        )
    measure = "agreement" if plan.reference else plan.measure
    columns = ("setup", measure, "95% interval", "p50 ms", "p95 ms", "")
    text = require("rich.text", "cli").Text
    notes = [text(f"Not measured: {name}: {reason}") for name, reason in plan.skipped.items()]
    group: Group = require("rich.console", "cli").Group(
        text(f"{plan.summary}\n"), new_table(caption, columns, rows), *notes
    )
    return group


def draw_plan(plan: Plan, path: Path) -> Path:
    """Draw quality against latency into a file, without a window or global settings.

    Raises:
        ConfigurationError: If matplotlib does not support the format.
        MissingDependencyError: If the extra ``plot`` is not installed.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=(8, 5), layout="constrained")
    _draw_options(figure.subplots(), plan)
    buffer = io.BytesIO()
    extension = path.suffix.lstrip(".").lower()
    metadata = {"Date": None} if extension == "svg" else None
    try:
        # With a salt, the ids in an SVG file are reproducible.
        with require("matplotlib", "plot").rc_context({"svg.hashsalt": "rerank-plugins"}):
            figure.savefig(buffer, format=extension, dpi=120, metadata=metadata)
    except ValueError as error:
        message = f"{path.name!r} has an unsupported format: {error}"
        raise ConfigurationError(message) from error
    write_bytes(path, buffer.getvalue())
    return path


def _draw_options(axes: Any, plan: Plan) -> None:  # noqa: ANN401  (matplotlib has no full types)
    def points(cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Return latencies, means and the ends of their intervals."""
        return np.array([(cell.latency_ms[0], *cell.interval(plan.measure)) for cell in cells]).T

    series: dict[str, list[Cell]] = {}
    for cell in plan.sweep.cells:
        name = ", then ".join(str(step.setup) for step in cell.steps) or cell.label
        series.setdefault(name, []).append(cell)
    for number, (name, cells) in enumerate(series.items()):
        latency, mean, low, high = points(cells)
        color = _COLORS[number % len(_COLORS)]
        style: dict[str, Any] = {"fmt": "o", "markersize": 5, "ecolor": "#77777766"}
        axes.errorbar(latency, mean, [mean - low, high - mean], color=color, label=name, **style)
    latency, mean, *_ = points(plan.frontier)
    style = {"color": "#555555", "linewidth": 1, "zorder": 0}
    axes.plot(latency, mean, label="best at its latency", **style)
    latency, mean, *_ = points([plan.recommended])
    style = {"facecolors": "none", "edgecolors": "#777777", "linewidths": 1.5, "zorder": 5}
    axes.scatter(latency, mean, s=220, label="recommended", **style)
    axes.axvline(plan.budget_ms, color="#b91c1c", linestyle=":", label="budget")
    axes.set(
        xscale="log",
        xlabel="milliseconds per question (median)",
        ylabel=f"agreement with {plan.reference}" if plan.reference else plan.measure,
    )
    counts = f"{len(plan.sweep.questions)} questions, {plan.sweep.documents:,} documents"
    axes.set_title(f"{plan.decision.verdict}: {counts}", fontsize=11)
    axes.grid(visible=True, alpha=0.25)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8, loc="best")
