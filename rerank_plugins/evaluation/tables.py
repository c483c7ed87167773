"""Evaluations as tables for rich's console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rerank_plugins._optional import require
from rerank_plugins.evaluation.significance import compare

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from rerank_plugins.evaluation.results import Evaluation

_GIBI: Final = 1024


def new_table(title: str, caption: str, *columns: str) -> Table:
    """Return an empty table whose first column is text and whose others are numbers.

    Raises:
        MissingDependencyError: If the extra ``cli`` is not installed.
    """
    text = require("rich.text", "cli").Text
    made: Table = require("rich.table", "cli").Table(
        title=text(title), caption=text(caption), title_justify="left", caption_justify="left"
    )
    for number, name in enumerate(columns):
        made.add_column(text(name), justify="right" if number else "left", no_wrap=number > 0)
    return made


def cell(text: str) -> Text:
    """Return a cell whose text is no markup."""
    made: Text = require("rich.text", "cli").Text(text)
    return made


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return a table: the first measure with interval and places, the others, the cost."""
    first, *others = evaluation.measures
    comparison = compare(evaluation, first)
    ties = len(comparison.ties)
    caption = (
        f"{len(evaluation.questions)} questions, {evaluation.documents:,} documents, depth "
        f"{evaluation.depth}. Places by {first}: systems that do not differ significantly "
        f"(permutation test, Holm, {comparison.alpha:g}) share theirs"
        + (f"; {ties} of {len(comparison.pairs)} pairs do not." if comparison.pairs else ".")
    )
    columns = ("system", "place", first, "95% interval", *others, "p50 ms", "p95 ms", "q/s", "GiB")
    table = new_table("", caption, *columns)
    for standing in comparison.standings:
        one = evaluation[standing.name]
        mean = standing.mean
        peak = one.peak_memory_mib
        table.add_row(
            cell(one.name),
            standing.place,
            f"{mean.mean:.3f}",
            f"{mean.low:.3f} to {mean.high:.3f}",
            *(f"{one.mean(measure):.3f}" for measure in others),
            f"{one.latency_ms['p50']:,.0f}",
            f"{one.latency_ms['p95']:,.0f}",
            f"{one.queries_per_second:.1f}",
            "" if peak is None else f"{peak / _GIBI:.2f}",
        )
    return table
