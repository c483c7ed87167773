"""Generated tables: ``python -m benchmarks tables`` renders the stored results.

A table is between markers, ``<!-- fusion -->`` and ``<!-- /fusion -->``, in
``benchmarks/results/README.md``, README.md or any page of ``docs``; moving the markers moves the
table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.common import RESULTS, ROOT, Results, Row, read_results

MARKED: Final = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n).*?(<!-- /(?P=name) -->)", re.DOTALL)
MAIN_CELLS: Final = {"mini/nq/10": "10 passages", "mini/nq/100": "100 passages"}


@dataclass(frozen=True)
class Figure:
    """A value and its interval, formatted by the specification of a column.

    ``interval`` shows the value with its bounds, ``mark`` adds an arrow to the value if the
    interval excludes 0, ``change`` (``change4`` with four decimals) shows a difference with its
    bounds, ``verdict`` also in words, ``yes`` a truth value, ``ms`` milliseconds; everything else
    is a format specification of Python.
    """

    value: float
    low: float | None
    high: float | None

    def __format__(self, specification: str) -> str:
        """Return the text of a cell."""
        low, high = self.low or 0.0, self.high or 0.0
        better, worse = low > 0, high < 0
        if specification == "interval":
            return f"{self.value:.3f} ({low:.2f} to {high:.2f})"
        if specification == "mark":
            return "▲" if better else "▼" if worse else ""
        if specification in ("change", "change4", "verdict"):
            digits = 4 if specification == "change4" else 3
            shown = f"{self.value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
            words = "better" if better else "worse" if worse else "no clear difference"
            return f"{shown}, {words}" if specification == "verdict" else shown
        if specification == "yes":
            return "yes" if self.value else "**no**"
        if specification == "ms" and self.value < 1:
            return "under 1"
        return format(self.value, ".0f" if specification == "ms" else specification)


Cell = dict[str, Figure]
"""The metrics of one system on one dataset."""


@dataclass(frozen=True)
class Column:
    """A column: its title, and the template of its cells with the metrics as fields.

    Attributes:
        title: The heading.
        template: Text such as ``"{p50_ms:.0f} / {p95_ms:.0f}"``; a cell without one of its metrics
            is empty.
        dataset: Dataset whose metrics it shows, in tables with one line per system.
    """

    title: str
    template: str
    dataset: str = ""

    def render(self, cell: Mapping[str, Figure]) -> str:
        """Return the text of a cell."""
        try:
            return self.template.format_map(cell).strip()
        except KeyError:
            return ""


@dataclass(frozen=True)
class Table:
    """A table of one suite.

    Attributes:
        suite: The suite.
        columns: Its columns, after those that name the line.
        names: Titles of the columns that name the line: dataset and system, or only the system,
            for one line per system with columns per dataset.
        note: Meaning of the columns; the environment is added.
        lines: Returns whether a system on a dataset gets a line; by default all do.
        sort: Metric and dataset that order the lines, largest first.
        split_dataset: Whether the parts of the dataset's name are columns of their own.
    """

    suite: str
    columns: tuple[Column, ...]
    names: tuple[str, ...] = ("dataset", "system")
    note: str = ""
    lines: Callable[[str, str], bool] = lambda _dataset, _system: True
    sort: tuple[str, str] | None = None
    split_dataset: bool = False

    def render(self, results: Results) -> str:
        """Return the table as Markdown, with the note and the environment below it."""
        cells = _by_system(results.rows)
        used = {key: cell for key, cell in cells.items() if key[1] and self.lines(key[0], key[1])}
        rows = self._pivoted(used) if len(self.names) == 1 else self._listed(used)
        titles = [*self.names, *(column.title for column in self.columns)]
        lines = [_line(titles), _line(["---"] * len(titles)), *map(_line, rows)]
        environments = dict.fromkeys(
            row.environment for row in results.rows if (row.dataset, row.system) in used
        )
        notes = [self.note] if self.note else []
        notes += _describe(self.suite, [results.environments[key] for key in environments])
        return "\n".join([*lines, "", *notes])

    def _listed(self, cells: Mapping[tuple[str, str], Cell]) -> Iterator[list[str]]:
        for (dataset, system), cell in cells.items():
            names = dataset.split("/") if self.split_dataset else [dataset]
            values = [column.render(cell) for column in self.columns]
            if any(values):
                yield [*names, system, *values]

    def _pivoted(self, cells: Mapping[tuple[str, str], Cell]) -> Iterator[list[str]]:
        systems = list(dict.fromkeys(system for _, system in cells))
        if self.sort:
            metric, dataset = self.sort
            systems = [name for name in systems if (dataset, name) in cells]
            systems.sort(key=lambda name: -cells[dataset, name][metric].value)
        for system in systems:
            of_dataset = {dataset: cells.get((dataset, system), {}) for dataset, _ in cells}
            values = [column.render(of_dataset[column.dataset]) for column in self.columns]
            if any(values):
                yield [system, *values]


@dataclass(frozen=True)
class MetricsTable:
    """A table of measurements that share no metrics: one line per metric.

    Attributes:
        suite: The suite.
        formats: Format specification of metrics; others have three significant digits.
        note: Meaning of the lines; the environment is added.
    """

    suite: str
    formats: Mapping[str, str]
    note: str = ""

    def render(self, results: Results) -> str:
        """Return the table as Markdown, with the note and the environment below it."""
        lines = [_line(["load", "measured", "metric", "value"]), _line(["---"] * 4)]
        lines += [
            _line([row.dataset, row.system, row.metric.replace("_", " "), self._value(row)])
            for row in results.rows
            if row.system
        ]
        notes = [self.note] if self.note else []
        return "\n".join(
            [*lines, "", *notes, *_describe(self.suite, list(results.environments.values()))]
        )

    def _value(self, row: Row) -> str:
        figure = Figure(row.value, row.low, row.high)
        if row.metric in self.formats:
            return format(figure, self.formats[row.metric])
        return f"{row.value:,.0f}" if row.value == int(row.value) else f"{row.value:.3g}"


def _by_system(rows: Iterable[Row]) -> dict[tuple[str, str], Cell]:
    cells: dict[tuple[str, str], Cell] = {}
    for row in rows:
        cell = cells.setdefault((row.dataset, row.system), {})
        cell[row.metric] = Figure(row.value, row.low, row.high)
    return cells


def _line(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |"


COMMANDS: Final = {
    "speed": "speed DATA --cells all --environments FOLDER",
    **{
        suite: f"speed DATA --suites {suite}"
        for suite in ("adapters", "growth", "pair-cost", "backends", "decoder")
    },
    **{
        suite: f"quality DATA --suites {suite}"
        for suite in (
            *("quality", "calibration", "fusion", "precision"),
            *("cascade", "deadline", "long-documents"),
        )
    },
    "precision-speed": "quality DATA --suites precision",
    "early-exit": "quality DATA --suites cascade",
    "concurrency": "load DATA",
    **{
        suite: f"load DATA --suites {suite}" for suite in ("one-process", "servers", "ray", "batch")
    },
    **{
        suite: f"robustness DATA --suites {suite}" for suite in ("golden", "faults", "fuzz", "soak")
    },
}
"""The command that measures a suite; other suites show the command that made their rows."""


def _describe(suite: str, environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return sentences on where and how a suite was measured, one per line."""
    machines = dict.fromkeys(
        f"{about['cores']} cores of {about['cpu']}" for about in environments if about["cpu"]
    )
    torch = dict.fromkeys(
        f"torch {about['packages']['torch']}" for about in environments if about["packages"]
    )
    commits = ", ".join(dict.fromkeys(about["commit"] for about in environments))
    where = "; ".join([*machines, *torch, f"commit {commits}"])
    commands = dict.fromkeys(about["command"] for about in environments)
    if suite in COMMANDS:
        commands = {f"python -m benchmarks {COMMANDS[suite]}": None}
    shown = ", ".join(f"`{command}`" for command in commands)
    return [f"Measured on {where}.", f"Reproduce with {shown}."]


def _per_dataset(datasets: Mapping[str, str], *columns: tuple[str, str]) -> tuple[Column, ...]:
    """Return the same columns for each dataset, whose title fills the ``{}`` of theirs."""
    return tuple(
        Column(title.format(shown), template, dataset)
        for dataset, shown in datasets.items()
        for title, template in columns
    )


_QUALITY_SETS: Final = ("squad-dev", "nq-gold", "stackfaq", "vaswani")
_SPEED_COLUMNS: Final = (
    Column("times as fast", "{speedup:.2f}"),
    Column("pairs/s", "{pairs_per_s:.1f}"),
    Column("p50 / p95, ms", "{p50_ms:.0f} / {p95_ms:.0f}"),
    Column("padding", "{padding_share:.0%}"),
    Column("peak memory, MiB", "{peak_mib:.0f}"),
)

TABLES: Final[dict[str, Table | MetricsTable]] = {
    "speed": Table(
        "speed",
        (
            *_per_dataset(
                MAIN_CELLS,
                ("times as fast, {}", "{speedup:.2f}"),
                ("pairs/s", "{pairs_per_s:.1f}"),
                ("p50 / p95, ms", "{p50_ms:.0f} / {p95_ms:.0f}"),
            ),
            Column("padding", "{padding_share:.0%}", "mini/nq/100"),
            Column("peak memory, MiB", "{peak_mib:.0f}", "mini/nq/100"),
        ),
        names=("system",),
        lines=lambda dataset, _: dataset in MAIN_CELLS,
        sort=("speedup", "mini/nq/100"),
        note="Times as fast as sentence-transformers: median of the ratios of the rounds.",
    ),
    "speed-cells": Table(
        "speed",
        _SPEED_COLUMNS,
        names=("model", "texts", "passages", "system"),
        split_dataset=True,
        lines=lambda dataset, _: dataset not in MAIN_CELLS,
    ),
    "speed-scores": Table(
        "speed",
        (
            Column("largest difference", "{largest_difference:.1e}", "mini/nq/100"),
            Column("equal", "{equal:yes}", "mini/nq/100"),
            Column("same top 10", "{same_top:.0%}", "mini/nq/100"),
        ),
        names=("system",),
        lines=lambda dataset, _: dataset in MAIN_CELLS,
        note="Compared with the scores of sentence-transformers in float32, for 100 passages; "
        "equal allows 1e-5, relative for scores above 1.",
    ),
    "adapters": Table(
        "adapters",
        (
            Column("p50, ms", "{p50_ms:.0f}"),
            Column("time over `Reranker.rank`", "{over_core:+.1%}"),
        ),
    ),
    "growth": Table(
        "growth",
        (
            Column("µs per token", "{us_per_token:.1f}"),
            Column("exponent of time over tokens", "{slope:.3f}"),
            Column("peak memory, MiB", "{peak_mib:.0f}"),
        ),
    ),
    "pair-cost": Table(
        "pair-cost",
        (
            Column("ms per pair", "{pair_ms:.2f}"),
            Column("cross-encoder takes, times", "{cross_encoder_over:.1f}"),
        ),
    ),
    "profile": Table("profile", (Column("share of the time", "{share:.1%}"),)),
    "backends": Table(
        "backends",
        (
            Column("first score", "{first_score_s:.1f} s"),
            Column("warm request", "{warm_ms:.0f} ms"),
            Column("memory", "{resident_mib:.0f} MiB"),
            Column("peak memory", "{peak_mib:.0f} MiB"),
        ),
        names=("model", "backend"),
        note="First score: from a bare interpreter, imports included; medians of fresh processes.",
    ),
    "decoder": Table(
        "decoder",
        (Column("time over ours with prefix reuse", "{time_ratio:.2f}"),),
    ),
    "quality": Table(
        "quality",
        (
            *(Column(name, "{nDCG@10:interval} {gain:mark}", name) for name in _QUALITY_SETS),
            Column("ms per query", "{p50_ms:ms}", "nq-gold"),
        ),
        names=("nDCG@10 (95% interval)",),
        note="▲ better, ▼ worse than the bi-encoder alone (all-MiniLM-L6-v2), paired bootstrap "
        "over queries; the time is the median on nq-gold.",
    ),
    "quality-sets": Table(
        "quality",
        (
            Column("nDCG@10", "{nDCG@10:interval}"),
            Column("MRR@10", "{MRR@10:interval}"),
            Column("recall@50", "{recall@50:.3f}"),
            Column("over the bi-encoder (nDCG@10)", "{gain:verdict}"),
            Column("p50 / p95, ms", "{p50_ms:ms} / {p95_ms:ms}"),
        ),
    ),
    "fusion": Table(
        "fusion",
        (
            Column("nDCG@10", "{nDCG@10:.3f}"),
            Column("weight", "{weight:g}"),
            Column("over the bi-encoder", "{over_bi_encoder:verdict}"),
            Column("over the cross-encoder", "{over_cross_encoder:verdict}"),
        ),
        note="95% intervals, paired bootstrap over queries; the fitted weight is measured by "
        "cross-validation.",
    ),
    "calibration": Table(
        "calibration",
        (
            Column("calibration error", "{calibration_error:.3f}"),
            Column("Brier score", "{brier:.4f}"),
            Column("precision for 0.9", "{precision:.2f} ({kept:.0f} pairs)"),
            Column("recall there", "{recall:.2f}"),
        ),
        note="Five folds over queries: each is calibrated, and its threshold chosen, by the other "
        "four.",
    ),
    "cascade": Table(
        "cascade",
        (
            Column("tokens", "{tokens_share:.1%}"),
            Column("nDCG@10", "{nDCG@10:.3f}"),
            Column("share of full quality", "{of_full:.1%}"),
            Column("difference", "{difference:change}"),
        ),
        names=("dataset", "the cross-encoder scores"),
    ),
    "early-exit": Table(
        "early-exit",
        (
            Column("fitted margin", "{margin:.3f}"),
            Column("held-out queries that end early", "{held_out_stopped:.0%}"),
            Column("held-out loss of nDCG@10", "{held_out_loss:.4f}"),
            Column("tokens", "{tokens_share:.1%}"),
        ),
        names=("dataset", "the cross-encoder scores"),
    ),
    "deadline": Table(
        "deadline",
        (
            Column("scored", "{scored:.0f}"),
            Column("late, p95", "{late_p95_ms:+.0f} ms"),
            Column("nDCG@10", "{nDCG@10:.3f}"),
            Column("over the first stage", "{gain:change}"),
        ),
        names=("dataset, first stage, fusion", "deadline"),
        note="Late is the time of the response beyond the deadline; negative is before it.",
    ),
    "long-documents": Table(
        "long-documents",
        (
            Column("nDCG@10", "{nDCG@10:.3f}"),
            Column("over the bi-encoder", "{over_bi_encoder:verdict}"),
            Column("over `truncate`", "{over_truncate:verdict}"),
            Column("tokens per query", "{tokens:,.0f}"),
        ),
        names=("documents", "reranking"),
    ),
    "precision-speed": Table(
        "precision-speed",
        _per_dataset(
            {"10 passages": "10 passages", "100 passages": "100 passages"},
            ("{}", "{p50_ms:.0f} ms, {speedup:.1f} times ({cpu_speedup:.1f})"),
        ),
        names=("backend",),
        note="Medians over queries; in brackets the ratio of CPU time.",
    ),
    "precision": Table(
        "precision",
        (
            Column("nDCG@10", "{nDCG@10:.4f}"),
            Column("difference to float32", "{change:change4}"),
            Column("correlation", "{correlation:.4f}"),
        ),
    ),
    "plan": Table(
        "plan",
        (
            Column("predicted median", "{predicted_p50_ms:.0f} ms"),
            Column("measured", "{measured_p50_ms:.0f} ms"),
            Column("ratio", "{ratio:.2f}"),
            Column("calls under the predicted p95", "{under_predicted_p95:.0%}"),
        ),
        names=("dataset", "option"),
    ),
    "concurrency": MetricsTable(
        "concurrency",
        {
            "pairs_per_s": ".0f",
            "over_rank_many": ".2f",
            "over_sentence_transformers": ".2f",
            "largest_difference": ".1e",
            "ratio": ".3f",
            "tokenization_share": ".1%",
        },
    ),
    "servers": Table(
        "servers",
        (
            Column("requests/s", "{requests_per_s:.2f}"),
            Column("p50, s", "{p50_s:.1f}"),
            Column("p95, s", "{p95_s:.1f}"),
            Column("peak memory, MiB", "{peak_mib:,.2f}"),
        ),
        note="The weights of `mini`; the servers are loaded in interleaved rounds.",
    ),
    "one-process": Table(
        "one-process",
        (
            Column("requests/s", "{requests_per_s:.1f}"),
            Column("median, s", "{p50_s:.2f}"),
            Column("p95, s", "{p95_s:.2f}"),
        ),
        names=("passages", "load"),
    ),
    "ray": MetricsTable("ray", {"pairs_per_s": ".0f", "ratio": ".2f"}),
    "batch": MetricsTable("batch", {"largest_difference": ".0e"}),
    "faults": Table(
        "faults",
        (
            Column("faults", "{faults:,.0f}"),
            Column("requests", "{requests:,.0f}"),
            Column("right", "{right:,.0f}"),
            Column("partial, in time", "{partial:,.0f}"),
            Column("error", "{error:,.0f}"),
            Column("cancelled", "{cancelled:,.0f}"),
            Column("**lost**", "**{lost:.0f}**"),
            Column("**wrong**", "**{wrong:.0f}**"),
        ),
        names=("faults", "backend"),
        lines=lambda dataset, _: dataset == "all",
    ),
    "golden": Table(
        "golden",
        (
            Column("largest difference", "{largest_difference:.1e}"),
            Column("allowed", "{allowed_difference:g}"),
            Column("mean difference", "{mean_difference:.1e}"),
            Column("Kendall's tau", "{kendall_tau:.4f}"),
            Column("allowed", "{allowed_tau:g}"),
            Column("other first document", "{other_first:.0f}"),
        ),
        names=("pairs", "configuration"),
    ),
    "fuzz": Table(
        "fuzz",
        (
            Column("inputs", "{inputs:,.0f}"),
            Column("minutes", "{minutes:.1f}"),
            Column("held", "{held:yes}"),
        ),
        names=("target", "property"),
    ),
    "soak": MetricsTable("soak", {"mib_per_hour": "+.1f"}),
    "mutants": MetricsTable("mutants", {"killed_share": ".1%"}),
}
"""The tables by the name of their markers."""


def render_table(name: str, folder: Path = RESULTS) -> str:
    """Return a table as Markdown.

    Raises:
        KeyError: If there is no table of that name.
    """
    table = TABLES[name]
    return table.render(read_results(table.suite, folder))


def render_page(page: str, folder: Path = RESULTS) -> str:
    """Return the text of a page with the tables between its markers rendered again.

    Raises:
        KeyError: If a marker has the name of no table.
    """
    return MARKED.sub(lambda match: f"{match[1]}{render_table(match[2], folder)}\n{match[3]}", page)


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    return [RESULTS / "README.md", ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    """Render the tables of all pages."""
    for path in pages():
        page = path.read_text("utf-8")
        rendered = render_page(page)
        if rendered != page:
            path.write_text(rendered, "utf-8")
