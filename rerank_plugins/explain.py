"""Explanations of rankings: movements, reasons and sentence effects, with their views.

:meth:`rerank_plugins.Ranking.explain` calls this module, with the model that scored the ranking
if it is still loaded. Rich and pandas are imported when their view is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from textwrap import shorten
from typing import TYPE_CHECKING, Final

import numpy as np

from rerank_plugins._lazy import require
from rerank_plugins.config import ScoringSettings, validate_count
from rerank_plugins.core.cross_encoder import effective_prompts
from rerank_plugins.core.ranking import validate_scores
from rerank_plugins.core.windows import WindowSplitter, sentences, subsample
from rerank_plugins.engine.backend import CrossEncoderBackend, SupportsTokenSpans
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.registry import find_engine
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import (
    ExplainedDocument,
    Explanation,
    Highlight,
    RankedDocument,
    Ranking,
    TextPair,
    Window,
)

if TYPE_CHECKING:
    from rich.table import Table


def explain(ranking: Ranking, highlight: int = 0) -> Explanation:
    """Explain a ranking; see :meth:`rerank_plugins.Ranking.explain`.

    Raises:
        ConfigurationError: If ``highlight`` is not an integer of at least 0, or if it is above
            0 and the model is not loaded.
        InferenceError: If the model fails.
    """
    validate_count("highlight", highlight, least=0)
    context = _ScoringContext.of(ranking)
    highlights = _highlights(ranking, context, highlight) if highlight else []
    documents = tuple(
        ExplainedDocument(
            document,
            rank_before=document.index + 1,
            rank_after=rank,
            truncated_tokens=_truncated_tokens(document, context),
            highlights=highlights[rank - 1] if rank <= len(highlights) else (),
        )
        for rank, document in enumerate(ranking, start=1)
    )
    return Explanation(
        ranking.query,
        ranking.model,
        ranking.status,
        documents,
        left_out=ranking.stats.documents - len(documents),
    )


@dataclass(frozen=True)
class _ScoringContext:
    """The model and the settings that scored a ranking."""

    engine: Engine[TextPair]
    settings: ScoringSettings
    query: str
    """The query with its prompt."""
    prompt: str
    """Prompt before each document."""

    @classmethod
    def of(cls, ranking: Ranking) -> _ScoringContext | None:
        """Return the context; None if the ranking's cross-encoder is not loaded here."""
        if ranking.model is None or ranking.scoring is None:
            return None
        if (engine := find_engine(ranking.model, CrossEncoderBackend)) is None:
            return None
        prompts = effective_prompts(engine.prompts, ranking.scoring)
        return cls(engine, ranking.scoring, prompts["query"] + ranking.query, prompts["document"])

    def scored_part(self, document: RankedDocument) -> Window:
        """Return the span of a scored document that its score is computed from."""
        if document.window is not None:
            return document.window
        end = len(document.text)
        backend = self.engine.backend
        if document.truncated and isinstance(backend, SupportsTokenSpans):
            (spans,) = backend.spans([self.prompt + document.text])
            room = backend.room(self.query, self.settings.max_length)
            end = int(spans[:room, 1].max(initial=0)) - len(self.prompt)
        return Window(0, max(0, end))

    def truncated_tokens(self, document: RankedDocument) -> int | None:
        """Return how many tokens of a scored document were not scored; None if unknown."""
        backend, settings = self.engine.backend, self.settings
        if not isinstance(backend, SupportsTokenSpans):
            return None
        if settings.windows is None:
            (spans,) = backend.spans([self.prompt + document.text])
            return max(0, len(spans) - backend.room(self.query, settings.max_length))
        overlap = settings.windows.overlap
        split = WindowSplitter(self.engine.backend, settings.max_length, overlap, self.prompt)
        (windows,) = split(self.query, [document.text])
        starts = backend.spans([document.text])[0][:, 0]
        scored = np.zeros(len(starts), dtype=np.bool_)
        for window in subsample(windows, settings.windows.max_windows):
            scored |= (starts >= window.start) & (starts < window.end)
        return int((~scored).sum())


def _truncated_tokens(document: RankedDocument, context: _ScoringContext | None) -> int | None:
    if not document.truncated:
        return 0
    # The settings of an earlier stage, which scored what the last one did not, are unknown.
    return context.truncated_tokens(document) if context is not None and document.scored else None


def _highlights(
    ranking: Ranking, context: _ScoringContext | None, count: int
) -> list[tuple[Highlight, ...]]:
    """Return the sentences of the best documents with their effects on the raw score.

    All texts are scored in one request. A document that has one sentence, or that the model
    did not score, has no highlights.
    """
    if not ranking.documents:
        return []
    if context is None:
        model = ranking.model.model if ranking.model else "no model"
        message = (
            "highlights need the ranking's cross-encoder, but "
            f"{model} is not loaded in this process, or is not a cross-encoder. "
            "Rank again in this process, or use highlight=0."
        )
        raise ConfigurationError(message)
    pairs: list[TextPair] = []
    parts: list[tuple[int, list[Window]]] = []
    for document in ranking[:count]:
        start, end = context.scored_part(document) if document.scored else (0, 0)
        text = document.text[start:end]
        spans = sentences(text)
        if len(spans) < 2:  # noqa: PLR2004
            spans = []
        parts.append((len(pairs), [Window(first + start, last + start) for first, last in spans]))
        if spans:
            # The part itself comes first: a document's score may be the mean of several windows.
            texts = [text, *(text[:first] + text[last:] for first, last in spans)]
            pairs += [TextPair(context.query, context.prompt + text) for text in texts]
    values = context.engine.compute(pairs, max_length=context.settings.max_length).values
    scores = validate_scores(values, len(pairs)).tolist() if pairs else []
    return [
        tuple(
            Highlight(start, end, scores[first] - scores[first + number])
            for number, (start, end) in enumerate(spans, start=1)
        )
        for first, spans in parts
    ]


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


_COLUMNS: Final = ("rank", "was", "moved", "score", "raw score", "retrieval score")


def html(explanation: Explanation) -> str:
    """Return a self-contained HTML table; all texts are escaped."""
    effects = [abs(mark.effect) for explained in explanation for mark in explained.highlights]
    largest = max(effects, default=0.0)
    rows = "".join(_html_row(explanation, explained, largest) for explained in explanation)
    header = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    legend = "; a green sentence raised the score, a red one lowered it (effect in the tooltip)"
    return (
        f'<div class="rerank-explanation"><style>{_STYLE}</style>'
        f"<strong>{escape(explanation.query)}</strong>"
        f'<table><thead><tr>{header}<th class="text">document</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        f"<footer>{escape(_caption(explanation))}{legend if largest else ''}</footer></div>"
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
    for name in _COLUMNS:
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("document")
    view.add_column("note")
    colors = {"up": "green", "down": "red", "": ""}
    for explained in explanation:
        before, after, movement, *scores = _numbers(explained, "")
        view.add_row(
            *(before, after, text(movement, colors[_direction(explained)]), *scores),
            text(_line(explained.document.text)),
            text(explanation.note(explained)),
        )
    return view


def _caption(explanation: Explanation) -> str:
    model = explanation.model.model if explanation.model else "no model"
    removed = f", {explanation.left_out} more removed" if explanation.left_out else ""
    return f"{model}, {explanation.status}{removed}"


def _direction(explained: ExplainedDocument) -> str:
    return "up" if explained.moved > 0 else "down" if explained.moved < 0 else ""


def _numbers(explained: ExplainedDocument, missing: str) -> list[str]:
    """Return the cells of the columns with numbers."""
    document = explained.document
    scores = (document.relevance_score, document.raw_score) if document.scored else (None, None)
    arrow = {"up": "↑", "down": "↓", "": "="}[_direction(explained)]
    return [
        *(str(explained.rank_after), str(explained.rank_before)),
        f"{arrow}{abs(explained.moved) or ''}",
        *(
            missing if score is None else f"{score:.3f}"
            for score in (*scores, document.retrieval_score)
        ),
    ]


def _html_row(explanation: Explanation, explained: ExplainedDocument, largest: float) -> str:
    document, note = explained.document, explanation.note(explained)
    after, before, movement, score, *others = _numbers(explained, "&ndash;")
    width = min(max(document.relevance_score, 0.0), 1.0) if document.scored else 0.0
    note_html = f'<div class="note">{escape(note)}</div>' if note else ""
    return (
        f"<tr><td>{after}</td><td>{before}</td>"
        f'<td class="{_direction(explained)}">{movement}</td>'
        f'<td>{score}<div class="bar" style="width:{width:.0%}"></div></td>'
        f"{''.join(f'<td>{other}</td>' for other in others)}"
        f'<td class="text">{_html_text(explained, largest)}{note_html}</td></tr>'
    )


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
    marks = ""
    for mark in explained.highlights:
        color = "26,152,80" if mark.effect > 0 else "217,83,79"
        strength = abs(mark.effect) / largest * 0.55 if largest else 0.0
        marks += (
            f'<mark title="{mark.effect:+.3f}" style="background:rgba({color},{strength:.2f})">'
            f"{escape(text[mark.start : mark.end])}</mark>"
        )
    unscored = '<span class="unscored">{}</span>'.format
    return unscored(escape(text[:start])) + marks + unscored(escape(text[end:]))


def _line(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return shorten(printable, 100, placeholder=" …")
