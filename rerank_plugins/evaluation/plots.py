"""A plan as a picture: quality against latency."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rerank_plugins._optional import require
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.files import write_bytes

if TYPE_CHECKING:
    from rerank_plugins.evaluation.plans import Option, Plan

_COLOURS: Final = ("#3b6fb6", "#d97706", "#4d9a6a", "#8b5fbf", "#b5485d", "#5f7d8c")
_SALT: Final = "rerank-plugins"
"""Makes the ids in an SVG file the same each time."""


def draw(plan: Plan, path: Path) -> Path:
    """Write the picture; no window is opened and no global setting changed.

    Raises:
        ConfigurationError: If matplotlib does not know the format.
        MissingDependencyError: If the extra ``plot`` is not installed.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=(8, 5), layout="constrained")
    canvas = require("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    kind = path.suffix.lstrip(".").lower()
    known = canvas.get_supported_filetypes()
    if kind not in known:
        message = f"{path.name!r} ends in no format that can be drawn; use {', '.join(known)}."
        raise ConfigurationError(message)
    _fill(figure.subplots(), plan)
    buffer = io.BytesIO()
    with require("matplotlib", "plot").rc_context({"svg.hashsalt": _SALT}):
        figure.savefig(
            buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None
        )
    write_bytes(path, buffer.getvalue())
    return path


def _fill(axes: Any, plan: Plan) -> None:  # noqa: ANN401  (matplotlib ships no complete types)
    series: dict[str, list[Option]] = {}
    for one in plan.options:
        series.setdefault(one.recipe.family, []).append(one)
    for number, (name, options) in enumerate(series.items()):
        middle = [one.quality.mean for one in options]
        errors = [
            [one.quality.mean - one.quality.low for one in options],
            [one.quality.high - one.quality.mean for one in options],
        ]
        axes.errorbar(
            [one.p50_ms for one in options],
            middle,
            yerr=errors,
            fmt="o",
            color=_COLOURS[number % len(_COLOURS)],
            ecolor="#77777766",
            label=name,
            markersize=5,
        )
    line = plan.frontier
    axes.plot(
        [one.p50_ms for one in line],
        [one.quality.mean for one in line],
        color="#555555",
        linewidth=1,
        zorder=0,
        label="best for its time",
    )
    best = plan.recommended
    axes.scatter(
        [best.p50_ms],
        [best.quality.mean],
        s=220,
        facecolors="none",
        edgecolors="#777777",
        linewidths=1.5,
        label="recommended",
        zorder=5,
    )
    axes.axvline(plan.budget_ms, color="#b91c1c", linestyle=":", label="budget")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds for one question (median, predicted)")
    axes.set_ylabel(f"agreement with {plan.reference}" if plan.reference else plan.measure)
    axes.set_title(
        f"{plan.decision.verdict}: {plan.questions} questions, {plan.documents:,} documents",
        fontsize=11,
    )
    axes.grid(visible=True, alpha=0.25)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8, loc="best")
