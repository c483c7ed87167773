"""Evaluations as tables for rich's console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rerank_plugins._optional import require
from rerank_plugins.evaluation.metrics import paired_bootstrap
from rerank_plugins.evaluation.significance import compare

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from rerank_plugins.evaluation.cells import Sweep
    from rerank_plugins.evaluation.plans import Plan
    from rerank_plugins.evaluation.results import Evaluation


def new_table(caption: str, *columns: str) -> Table:
    """Return an empty table whose first column is text and whose others are numbers.

    Raises:
        MissingDependencyError: If the extra ``cli`` is not installed.
    """
    text = require("rich.text", "cli").Text
    made: Table = require("rich.table", "cli").Table(caption=text(caption), caption_justify="left")
    for number, name in enumerate(columns):
        justify: Any = "right" if number else "left"
        made.add_column(text(name), justify=justify, no_wrap=number > 0, min_width=5)
    return made


def new_cell(text: str) -> Text:
    """Return a cell whose text is no markup."""
    made: Text = require("rich.text", "cli").Text(text)
    return made


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return a table with a column a system: places, measures, and what it costs."""
    first = evaluation.measures[0]
    comparison = compare(evaluation, first)
    ties = len(comparison.ties)
    caption = (
        f"{len(evaluation.questions)} questions, {evaluation.documents:,} documents, depth "
        f"{evaluation.depth}. Places by {first}: systems that do not differ significantly "
        f"(permutation test, Holm, {comparison.alpha:g}) share theirs"
        + (f"; {ties} of {len(comparison.pairs)} pairs do not." if comparison.pairs else ".")
    )
    standings = comparison.standings
    systems = [evaluation[one.name] for one in standings]
    table = new_table(caption, "", *(one.name for one in systems))
    table.add_row("place", *(one.place for one in standings))
    table.add_section()
    for measure in evaluation.measures:
        table.add_row(measure, *(f"{one.mean(measure):.3f}" for one in systems))
        if measure == first:
            shown = (f"{one.mean.low:.3f} to {one.mean.high:.3f}" for one in standings)
            table.add_row("  95% interval", *shown)
    table.add_section()
    for name in systems[0].latency_ms:
        table.add_row(f"{name} ms", *(f"{one.latency_ms[name]:,.1f}" for one in systems))
    table.add_row("questions/s", *(f"{one.queries_per_second:,.1f}" for one in systems))
    peaks = [one.peak_memory_mib for one in systems]
    table.add_row("peak MiB", *("?" if peak is None else f"{peak:,.0f}" for peak in peaks))
    return table


def sweep_table(sweep: Sweep) -> Table:
    """Return a table with a row a cell: the first measure, the gain, the latency."""
    first = sweep.measures[0]
    values = sweep.values_of(first)
    base, *_ = sweep.cells
    caption = (
        f"{len(sweep.questions)} questions, {sweep.documents:,} documents. Gain over the "
        "bi-encoder, each interval by itself; * where it does not hold 0."
    )
    table = new_table(caption, "reranker", first, "gain", "95% interval", "p50 ms", "p95 ms")
    for cell in sweep.cells:
        change = paired_bootstrap(values[base.label], values[cell.label])
        gain = (f"{change.mean:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}")
        middle, high = cell.latency_ms
        table.add_row(
            new_cell(cell.label + ("" if change.verdict == "no clear difference" else " *")),
            f"{values[cell.label].mean():.3f}",
            *(("", "") if cell is base else gain),
            f"{middle:,.0f}",
            f"{high:,.0f}",
        )
    return table


def plan_view(plan: Plan) -> Group:
    """Return a plan's summary and the table of its frontier."""
    caption = (
        f"{plan.questions} questions, {plan.documents:,} documents, measured in {plan.seconds:.0f} "
        "s. What no other beats in both, and the best of each setup, with 95% intervals; times "
        "are predicted."
    )
    measure = "agreement" if plan.reference else plan.measure
    table = new_table(caption, "setup", measure, "95% interval", "p50 ms", "p95 ms", "")
    for one in plan.shown:
        mark = "use this" if one is plan.recommended else ""
        table.add_row(
            new_cell(str(one.recipe)),
            f"{one.quality.mean:.3f}",
            f"{one.quality.low:.3f} to {one.quality.high:.3f}",
            f"{one.p50_ms:,.0f}",
            f"{one.p95_ms:,.0f}",
            mark if one.p95_ms <= plan.budget_ms else mark or "over budget",
        )
    notes = [new_cell(f"Not measured: {name}: {why}") for name, why in plan.skipped.items()]
    made: Group = require("rich.console", "cli").Group(
        new_cell(plan.summary), new_cell(""), table, *notes
    )
    return made
