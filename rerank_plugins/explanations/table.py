"""An explanation in a terminal."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING

from rerank_plugins._optional import require

if TYPE_CHECKING:
    from rich.table import Table

    from rerank_plugins.core.explanation import ExplainedDocument, Explanation


def table(explanation: Explanation) -> Table:
    """Return a table with a row a document.

    Raises:
        MissingDependencyError: If the extra ``cli`` is not installed.
    """
    text = require("rich.text", "cli").Text
    left = f"; {explanation.left_out} more left out" if explanation.left_out else ""
    model = explanation.model.model if explanation.model else "no model"
    made: Table = require("rich.table", "cli").Table(
        title=text(_line(explanation.query)),
        caption=text(f"{model}, {explanation.status}{left}"),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("rank", "was", "moved", "score", "raw", "first stage"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("document")
    made.add_column("note")
    for one in explanation:
        document = one.document
        first = "" if document.first_stage is None else f"{document.first_stage:.3f}"
        scores = (document.relevance_score, document.raw_score)
        shown = [f"{score:.3f}" if document.scored else "" for score in scores]
        made.add_row(
            str(one.rank_after),
            str(one.rank_before),
            _moved(one),
            *shown,
            first,
            text(_line(document.text)),
            text(explanation.why(one)),
        )
    return made


def _moved(one: ExplainedDocument) -> str:
    if one.moved == 0:
        return "="
    return f"[green]↑{one.moved}[/]" if one.moved > 0 else f"[red]↓{-one.moved}[/]"


def _line(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return shorten(printable, 100, placeholder=" …")
