"""The plot of speed, for light and for dark pages."""

from __future__ import annotations

import io
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch

CELLS: Final = ("mini/nq/10", "mini/nq/100")
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "speed",  # the same results give the same file
    "font.size": 10,
}
_THEMES: Final = {
    "light": {"text": "#1f2328", "grid": "#d1d9e0", "ours": "#0969da", "peers": "#818b98"},
    "dark": {"text": "#f0f6fc", "grid": "#3d444d", "ours": "#4493f8", "peers": "#9198a1"},
}
_FAINT: Final = 0.5
_BAR: Final = 0.36


def figure(results: dict[str, Any], theme: str) -> Figure:
    """Draw how many times as fast as the baseline each system is, fastest first."""
    colors = _THEMES[theme]
    cells = [results["cells"][name] for name in CELLS if name in results["cells"]]
    last = cells[-1]["systems"]
    names = sorted(last, key=lambda name: last[name]["speedup"])
    drawn = Figure(figsize=(8.4, 0.9 + 0.44 * len(names)), layout="constrained")
    axes = drawn.add_subplot()
    for number, cell in enumerate(cells):
        shift = _BAR * (number - (len(cells) - 1) / 2)
        for row, name in enumerate(names):
            one = cell["systems"].get(name)
            if one is None:
                continue
            bars = axes.barh(
                row - shift,
                one["speedup"],
                height=_BAR,
                color=colors["ours" if name.startswith("ours") else "peers"],
                alpha=_alpha(cell is cells[-1]),
            )
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8, color=colors["text"])
    axes.set_yticks(range(len(names)), [_title(results, name) for name in names])
    axes.axvline(1, color=colors["text"], linewidth=1, zorder=0)
    axes.margins(x=0.08, y=0.01)
    axes.set_facecolor("none")
    axes.legend(
        [Patch(color=colors["ours"], alpha=_alpha(cell is cells[-1])) for cell in cells],
        [f"{cell['passages']} passages" for cell in cells],
        loc="lower right",
        frameon=False,
        labelcolor=colors["text"],
    )
    theirs = results["systems"][results["baseline"]]["title"]
    quick = "; a quick run" if results["quick"] else ""
    drawn.supxlabel(
        f"times as fast as {theirs} (model mini, Wikipedia passages{quick})",
        color=colors["text"],
        fontsize=10,
    )
    axes.tick_params(colors=colors["text"], length=0)
    axes.xaxis.grid(visible=True, color=colors["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def svg(results: dict[str, Any], theme: str) -> str:
    """Return the plot as SVG on no background, without a date."""
    with mpl.rc_context(_SETTINGS):
        target = io.StringIO()
        figure(results, theme).savefig(
            target, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _alpha(most: bool) -> float:  # noqa: FBT001
    """Return how strong the bars are: full for the most passages."""
    return 1.0 if most else _FAINT


def _title(results: dict[str, Any], name: str) -> str:
    title: str = results["systems"][name]["title"]
    return title.replace("rerank_plugins, ", "ours, ").replace("rerank_plugins ", "ours ")
