"""An explanation in a notebook: one table, self-contained, on any background."""

from __future__ import annotations

from html import escape
from textwrap import shorten
from typing import TYPE_CHECKING, Final

from rerank_plugins._lazy import require

if TYPE_CHECKING:
    from rich.table import Table

    from rerank_plugins.types import ExplainedDocument, Explanation

# Colors are the surroundings' own, or let them through, so that dark pages need nothing else.
# JupyterLab has rules of its own for tables, which the longer selectors and the layout overrule.
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
.rerank-explanation .unread{opacity:.5}
"""
_SHORT: Final = 160


def html(explanation: Explanation) -> str:
    """Return the view; every text from outside is escaped."""
    most = max((abs(mark.effect) for one in explanation for mark in one.highlights), default=0)
    rows = "".join(_row(explanation, one, most) for one in explanation)
    heads = "".join(f"<th>{name}</th>" for name in ("rank", "was", "moved", "score", "raw score"))
    model = escape(explanation.model.model) if explanation.model else "no model"
    left = f", {explanation.left_out} more left out" if explanation.left_out else ""
    legend = (
        "; a green sentence raised the score, a red one lowered it: by how much is in its tooltip"
        if most
        else ""
    )
    return (
        f'<div class="rerank-explanation"><style>{_STYLE}</style>'
        f"<strong>{escape(explanation.query)}</strong>"
        f'<table><thead><tr>{heads}<th>first stage</th><th class="text">document</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f"<footer>{model}, {explanation.status}{left}{legend}</footer></div>"
    )


def _row(explanation: Explanation, one: ExplainedDocument, most: float) -> str:
    document = one.document
    share = min(max(document.relevance_score, 0.0), 1.0) if document.scored else 0.0
    score = f"{document.relevance_score:.3f}" if document.scored else "&ndash;"
    raw = f"{document.raw_score:.3f}" if document.scored else "&ndash;"
    first = "&ndash;" if document.retrieval_score is None else f"{document.retrieval_score:.3f}"
    note = explanation.why(one)
    shown = f'<div class="note">{escape(note)}</div>' if note else ""
    return (
        f"<tr><td>{one.rank_after}</td><td>{one.rank_before}</td>{_movement(one.moved)}"
        f'<td>{score}<div class="bar" style="width:{share:.0%}"></div></td>'
        f'<td>{raw}</td><td>{first}</td><td class="text">{_text(one, most)}{shown}</td></tr>'
    )


def _movement(places: int) -> str:
    if places == 0:
        return "<td>=</td>"
    return (
        f'<td class="up">&uarr;{places}</td>'
        if places > 0
        else f'<td class="down">&darr;{-places}</td>'
    )


def _text(one: ExplainedDocument, most: float) -> str:
    text = one.document.text
    if one.highlights:
        return _marked(one, most)
    if len(text) <= _SHORT:
        return escape(text)
    start = one.document.window.start if one.document.window else 0
    line = ("… " if start else "") + shorten(text[start:], _SHORT, placeholder=" …")
    return f"<details><summary>{escape(line)}</summary>{escape(text)}</details>"


def _marked(one: ExplainedDocument, most: float) -> str:
    text = one.document.text
    start, end = one.highlights[0].start, one.highlights[-1].end
    parts = []
    for mark in one.highlights:
        color = "26,152,80" if mark.effect > 0 else "217,83,79"
        strength = abs(mark.effect) / most * 0.55 if most else 0.0
        parts.append(
            f'<mark title="{mark.effect:+.3f}" style="background:rgba({color},{strength:.2f})">'
            f"{escape(text[mark.start : mark.end])}</mark>"
        )
    before, after = (
        f'<span class="unread">{escape(part)}</span>' if part else ""
        for part in (text[:start], text[end:])
    )
    return before + "".join(parts) + after


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
        first = "" if document.retrieval_score is None else f"{document.retrieval_score:.3f}"
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
