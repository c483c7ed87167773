"""Views of an explanation: HTML for notebooks and a table for rich's console."""

from __future__ import annotations

from html import escape
from textwrap import shorten
from typing import TYPE_CHECKING, Final

from rerank_plugins._lazy import require

if TYPE_CHECKING:
    from rich.table import Table

    from rerank_plugins.types import ExplainedDocument, Explanation

# Colors are inherited or translucent, so that the view fits light and dark pages.
# The longer selectors and the table layout override JupyterLab's rules for tables.
_STYLE: Final = """
.rerank-explanation{color:inherit;font:13px/1.5 system-ui,sans-serif;max-width:72em}
.rerank-explanation table{table-layout:auto;border-collapse:collapse;width:100%;
margin:.5em 0;color:inherit}
.rerank-explanation th,.rerank-explanation td{padding:.35em .7em;text-align:right;
vertical-align:top;border-bottom:1px solid rgba(128,128,128,.3);background:none;color:inherit}
.rerank-explanation th{font-weight:600;white-space:nowrap}
.rerank-explanation td{font-variant-numeric:tabular-nums;white-space:nowrap}
.rerank-explanation table tr .text{text-align:left;white-space:pre-wrap;width:60%}
.rerank-explanation .up{color:#1a9850}.rerank-explanation .down{color:#d9534f}
.rerank-explanation .bar{height:3px;background:rgba(66,133,244,.75);margin-left:auto}
.rerank-explanation .note,.rerank-explanation footer{opacity:.7;font-size:12px}
.rerank-explanation mark{color:inherit;border-radius:2px}
.rerank-explanation summary{cursor:pointer}
.rerank-explanation .unscored{opacity:.5}
"""
_HTML_LENGTH: Final = 160
"""Maximum number of characters of a text without highlights that is shown unfolded."""

_TABLE_LENGTH: Final = 100


def html(explanation: Explanation) -> str:
    """Return a self-contained HTML table; all texts are escaped."""
    largest = max(
        (abs(mark.effect) for explained in explanation for mark in explained.highlights), default=0
    )
    rows = "".join(_html_row(explanation, explained, largest) for explained in explanation)
    names = ("rank", "was", "moved", "score", "raw score", "retrieval score")
    header = "".join(f"<th>{name}</th>" for name in names)
    legend = (
        "; a green sentence raised the score, a red one lowered it (effect in the tooltip)"
        if largest
        else ""
    )
    return (
        f'<div class="rerank-explanation"><style>{_STYLE}</style>'
        f"<strong>{escape(explanation.query)}</strong>"
        f'<table><thead><tr>{header}<th class="text">document</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f"<footer>{escape(_caption(explanation))}{legend}</footer></div>"
    )


def table(explanation: Explanation) -> Table:
    """Return a table with one row per document.

    Raises:
        MissingDependencyError: If the extra ``cli`` is not installed.
    """
    text = require("rich.text", "cli").Text
    view: Table = require("rich.table", "cli").Table(
        title=text(_line(explanation.query)),
        caption=text(_caption(explanation)),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("rank", "was", "moved", "score", "raw score", "retrieval score"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("document")
    view.add_column("note")
    for explained in explanation:
        document = explained.document
        view.add_row(
            str(explained.rank_after),
            str(explained.rank_before),
            _table_movement(explained.moved),
            _score(document.relevance_score if document.scored else None, ""),
            _score(document.raw_score if document.scored else None, ""),
            _score(document.retrieval_score, ""),
            text(_line(document.text)),
            text(explanation.note(explained)),
        )
    return view


def _caption(explanation: Explanation) -> str:
    model = explanation.model.model if explanation.model else "no model"
    removed = f", {explanation.left_out} more removed" if explanation.left_out else ""
    return f"{model}, {explanation.status}{removed}"


def _score(score: float | None, missing: str) -> str:
    return missing if score is None else f"{score:.3f}"


def _html_row(explanation: Explanation, explained: ExplainedDocument, largest: float) -> str:
    document = explained.document
    relevance = document.relevance_score if document.scored else None
    width = min(max(relevance or 0.0, 0.0), 1.0)
    note = explanation.note(explained)
    note_html = f'<div class="note">{escape(note)}</div>' if note else ""
    return (
        f"<tr><td>{explained.rank_after}</td><td>{explained.rank_before}</td>"
        f"{_html_movement(explained.moved)}"
        f'<td>{_score(relevance, "&ndash;")}<div class="bar" style="width:{width:.0%}"></div></td>'
        f"<td>{_score(document.raw_score if document.scored else None, '&ndash;')}</td>"
        f"<td>{_score(document.retrieval_score, '&ndash;')}</td>"
        f'<td class="text">{_html_text(explained, largest)}{note_html}</td></tr>'
    )


def _html_movement(ranks: int) -> str:
    if ranks == 0:
        return "<td>=</td>"
    if ranks > 0:
        return f'<td class="up">&uarr;{ranks}</td>'
    return f'<td class="down">&darr;{-ranks}</td>'


def _html_text(explained: ExplainedDocument, largest: float) -> str:
    document = explained.document
    if explained.highlights:
        return _html_highlights(explained, largest)
    if len(document.text) <= _HTML_LENGTH:
        return escape(document.text)
    start = document.window.start if document.window else 0
    shown = ("… " if start else "") + shorten(document.text[start:], _HTML_LENGTH, placeholder=" …")
    return f"<details><summary>{escape(shown)}</summary>{escape(document.text)}</details>"


def _html_highlights(explained: ExplainedDocument, largest: float) -> str:
    """Return the text with its sentences colored, and what was not scored in gray."""
    text = explained.document.text
    start, end = explained.highlights[0].start, explained.highlights[-1].end
    marks = []
    for mark in explained.highlights:
        color = "26,152,80" if mark.effect > 0 else "217,83,79"
        strength = abs(mark.effect) / largest * 0.55 if largest else 0.0
        marks.append(
            f'<mark title="{mark.effect:+.3f}" style="background:rgba({color},{strength:.2f})">'
            f"{escape(text[mark.start : mark.end])}</mark>"
        )
    before, after = (
        f'<span class="unscored">{escape(part)}</span>' if part else ""
        for part in (text[:start], text[end:])
    )
    return before + "".join(marks) + after


def _table_movement(ranks: int) -> str:
    if ranks == 0:
        return "="
    return f"[green]↑{ranks}[/]" if ranks > 0 else f"[red]↓{-ranks}[/]"


def _line(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return shorten(printable, _TABLE_LENGTH, placeholder=" …")
