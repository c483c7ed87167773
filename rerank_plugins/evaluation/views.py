"""Result tables for rich's console, and the plot of a plan."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rerank_plugins._lazy import require
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.evaluator import write_bytes
from rerank_plugins.evaluation.metrics import compare, paired_bootstrap

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from rerank_plugins.evaluation.evaluator import Evaluation
    from rerank_plugins.evaluation.planner import Plan
    from rerank_plugins.evaluation.sweeper import Cell, Sweep

_COLORS: Final = ("#3b6fb6", "#d97706", "#4d9a6a", "#8b5fbf", "#b5485d", "#5f7d8c")
_SALT: Final = "rerank-plugins"
"""Makes the ids in an SVG file reproducible."""


def new_table(caption: str, *columns: str) -> Table:
    """Return an empty table whose first column is text and whose others are numbers.

    Raises:
        MissingDependencyError: If the extra ``cli`` is not installed.
    """
    text = require("rich.text", "cli").Text
    table: Table = require("rich.table", "cli").Table(caption=text(caption), caption_justify="left")
    for number, name in enumerate(columns):
        justify: Any = "right" if number else "left"
        table.add_column(text(name), justify=justify, no_wrap=number > 0, min_width=5)
    return table


def new_cell(text: str) -> Text:
    """Return a cell that shows its text without interpreting markup."""
    cell: Text = require("rich.text", "cli").Text(text)
    return cell


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return a table with one column per system: rank, measures, latency and memory."""
    first = evaluation.measures[0]
    comparison = compare(evaluation, first)
    ties = len(comparison.ties)
    caption = (
        f"{len(evaluation.questions)} questions, {evaluation.documents:,} documents, depth "
        f"{evaluation.depth}. Ranks by {first}; systems that do not differ significantly "
        f"(permutation test, Holm, {comparison.alpha:g}) are tied"
        + (f": {ties} of {len(comparison.pairs)} pairs." if comparison.pairs else ".")
    )
    standings = comparison.standings
    systems = [evaluation[standing.name] for standing in standings]
    table = new_table(caption, "", *(system.name for system in systems))
    table.add_row("rank", *(standing.rank for standing in standings))
    table.add_section()
    for measure in evaluation.measures:
        table.add_row(measure, *(f"{system.mean(measure):.3f}" for system in systems))
        if measure == first:
            means = [standing.mean for standing in standings]
            table.add_row(
                "  95% interval", *(f"{mean.low:.3f} to {mean.high:.3f}" for mean in means)
            )
    table.add_section()
    for name in systems[0].latency_ms:
        table.add_row(f"{name} ms", *(f"{system.latency_ms[name]:,.1f}" for system in systems))
    table.add_row("questions/s", *(f"{system.queries_per_second:,.1f}" for system in systems))
    peaks = [system.peak_memory_mib for system in systems]
    table.add_row("peak MiB", *("?" if peak is None else f"{peak:,.0f}" for peak in peaks))
    return table


def sweep_table(sweep: Sweep) -> Table:
    """Return a table with one row per cell: the first measure, its gain, the latency."""
    first = sweep.measures[0]
    values = sweep.values_of(first)
    base, *_ = sweep.cells
    caption = (
        f"{len(sweep.questions)} questions, {sweep.documents:,} documents. Gain over the "
        "bi-encoder with its own interval; * where the interval does not contain 0."
    )
    table = new_table(caption, "reranker", first, "gain", "95% interval", "p50 ms", "p95 ms")
    for cell in sweep.cells:
        change = paired_bootstrap(values[base.label], values[cell.label])
        gain = (f"{change.mean:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}")
        median, p95 = cell.latency_ms
        table.add_row(
            new_cell(cell.label + ("" if change.verdict == "no clear difference" else " *")),
            f"{values[cell.label].mean():.3f}",
            *(("", "") if cell is base else gain),
            f"{median:,.0f}",
            f"{p95:,.0f}",
        )
    return table


def plan_view(plan: Plan) -> Group:
    """Return a plan's summary and a table of its most relevant options."""
    sweep = plan.sweep
    caption = (
        f"{len(sweep.questions)} questions, {sweep.documents:,} documents, measured in "
        f"{plan.seconds:.0f} s. Options that no other beats in both quality and latency, and "
        "the best of each setup, with 95% intervals."
    )
    measure = "agreement" if plan.reference else plan.measure
    table = new_table(caption, "setup", measure, "95% interval", "p50 ms", "p95 ms", "")
    for cell in plan.highlights:
        quality = cell.interval(plan.measure)
        median, p95 = cell.latency_ms
        mark = "use this" if cell is plan.recommended else ""
        table.add_row(
            new_cell(cell.label),
            f"{quality.mean:.3f}",
            f"{quality.low:.3f} to {quality.high:.3f}",
            f"{median:,.0f}",
            f"{p95:,.0f}",
            mark if p95 <= plan.budget_ms else mark or "over budget",
        )
    notes = [new_cell(f"Not measured: {name}: {reason}") for name, reason in plan.skipped.items()]
    group: Group = require("rich.console", "cli").Group(
        new_cell(plan.summary), new_cell(""), table, *notes
    )
    return group


def draw_plan(plan: Plan, path: Path) -> Path:
    """Draw quality against latency into a file, without a window or global settings.

    Raises:
        ConfigurationError: If matplotlib does not support the format.
        MissingDependencyError: If the extra ``plot`` is not installed.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=(8, 5), layout="constrained")
    canvas = require("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    extension = path.suffix.lstrip(".").lower()
    supported = canvas.get_supported_filetypes()
    if extension not in supported:
        message = f"{path.name!r} has an unsupported format; use {', '.join(supported)}."
        raise ConfigurationError(message)
    _draw_options(figure.subplots(), plan)
    buffer = io.BytesIO()
    metadata = {"Date": None} if extension == "svg" else None
    with require("matplotlib", "plot").rc_context({"svg.hashsalt": _SALT}):
        figure.savefig(buffer, format=extension, dpi=120, metadata=metadata)
    write_bytes(path, buffer.getvalue())
    return path


def _draw_options(axes: Any, plan: Plan) -> None:  # noqa: ANN401  (matplotlib has no full types)
    series: dict[str, list[Cell]] = {}
    for cell in plan.sweep.cells:
        name = ", then ".join(str(step.setup) for step in cell.steps) or cell.label
        series.setdefault(name, []).append(cell)
    for number, (name, cells) in enumerate(series.items()):
        means = [cell.interval(plan.measure) for cell in cells]
        axes.errorbar(
            [cell.latency_ms[0] for cell in cells],
            [mean.mean for mean in means],
            yerr=[
                [mean.mean - mean.low for mean in means],
                [mean.high - mean.mean for mean in means],
            ],
            fmt="o",
            color=_COLORS[number % len(_COLORS)],
            ecolor="#77777766",
            label=name,
            markersize=5,
        )
    axes.plot(
        [cell.latency_ms[0] for cell in plan.frontier],
        [cell.interval(plan.measure).mean for cell in plan.frontier],
        color="#555555",
        linewidth=1,
        zorder=0,
        label="best at its latency",
    )
    best = plan.recommended
    axes.scatter(
        [best.latency_ms[0]],
        [best.interval(plan.measure).mean],
        s=220,
        facecolors="none",
        edgecolors="#777777",
        linewidths=1.5,
        label="recommended",
        zorder=5,
    )
    axes.axvline(plan.budget_ms, color="#b91c1c", linestyle=":", label="budget")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds per question (median)")
    axes.set_ylabel(f"agreement with {plan.reference}" if plan.reference else plan.measure)
    axes.set_title(
        f"{plan.decision.verdict}: {len(plan.sweep.questions)} questions, "
        f"{plan.sweep.documents:,} documents",
        fontsize=11,
    )
    axes.grid(visible=True, alpha=0.25)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8, loc="best")
