"""Renews the tables of the documentation from the results: ``python -m benchmarks.tables``.

A table stands between markers such as ``<!-- concurrency -->`` and ``<!-- /concurrency -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.backend_tables import backends_table, decoder_table
from benchmarks.cpu_table import cpu_table
from benchmarks.environment import ROOT, versions
from benchmarks.golden.table import golden_table
from benchmarks.model_table import write_models
from benchmarks.mutant_table import mutant_table
from benchmarks.plan_table import plan_table
from benchmarks.quality_tables import quality_sets_table, quality_table
from benchmarks.ranking_tables import cascade_table, deadline_table, long_documents_table
from benchmarks.ray_tables import batch_table, ray_table
from benchmarks.reliability.fuzz_table import fuzz_table
from benchmarks.reliability.table import faults_table
from benchmarks.rows import Row, target_lines
from benchmarks.scaling_tables import capacity_table, one_process_table, servers_table
from benchmarks.score_tables import calibration_table, fusion_table
from benchmarks.soak_table import soak_table
from benchmarks.speed_plot import svg
from benchmarks.speed_tables import (
    cells_table,
    claims_table,
    int8_profile_table,
    peers_table,
    profile_table,
    scores_table,
    targets_table,
)
from benchmarks.version_table import version_table

RESULTS: Final = ROOT / "benchmarks" / "results"
_HOMES: Final = {
    "backends": ROOT / "docs" / "models.md",
    "decoder": ROOT / "docs" / "models.md",
    "concurrency": ROOT / "docs" / "concurrency.md",
    "quality": ROOT / "README.md",
    "quality-sets": ROOT / "docs" / "evaluation.md",
    "plan": ROOT / "docs" / "evaluation.md",
    "calibration": ROOT / "docs" / "scores.md",
    "fusion": ROOT / "docs" / "scores.md",
    "long_documents": ROOT / "docs" / "long-documents.md",
    "deadline": ROOT / "docs" / "deadlines.md",
    "cascade": ROOT / "docs" / "cascades.md",
    "fuzz": ROOT / "docs" / "reliability.md",
    "ray": ROOT / "docs" / "ray.md",
    "batch": ROOT / "docs" / "ray.md",
    "servers": ROOT / "docs" / "serving.md",
    "capacity": ROOT / "docs" / "scaling.md",
    "one_process": ROOT / "docs" / "scaling.md",
    "cpu": ROOT / "docs" / "cpu.md",
    "soak": ROOT / "docs" / "reliability.md",
    "versions": ROOT / "docs" / "compatibility.md",
    "mutants": ROOT / "docs" / "reliability.md",
    "speed": ROOT / "docs" / "performance.md",
    "speed-cells": ROOT / "docs" / "performance.md",
    "speed-scores": ROOT / "docs" / "performance.md",
    "speed-targets": ROOT / "docs" / "performance.md",
    "speed-claims": ROOT / "docs" / "performance.md",
    "speed-profile": ROOT / "docs" / "performance.md",
    "speed-profile-int8": ROOT / "docs" / "performance.md",
    "reliability-faults": ROOT / "docs" / "reliability.md",
    "golden": ROOT / "docs" / "reliability.md",
}
_SOURCES: Final = {
    "capacity": "servers",
    "fuzz": "reliability-fuzz",
    "quality-sets": "quality",
    **dict.fromkeys(("speed-profile", "speed-profile-int8"), "speed-claims"),
    **dict.fromkeys(("speed-cells", "speed-scores", "speed-targets"), "speed"),
}
"""Results of tables that have none of their own name."""

PAGES: Final = {
    name: page
    for name, page in _HOMES.items()
    if (RESULTS / f"{_SOURCES.get(name, name)}.json").exists()
}
"""Where each table stands that has been measured."""

PLOTS: Final = {theme: ROOT / "docs" / f"speed-{theme}.svg" for theme in ("light", "dark")}
TOLERANCE: Final = 1e-5


def concurrency_table(results: dict[str, Any]) -> str:
    """Return the table as Markdown, with the machine below it."""
    lines = target_lines(_rows(results))
    return "\n".join([*lines, "", _machine(results)])


def filled(page: str, name: str, table: str) -> str:
    """Return the page with the table between the markers of that name."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return marked.sub(lambda match: f"{match[1]}{table}\n{match[2]}", page)


def committed(name: str) -> dict[str, Any]:
    """Return committed results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def renewed(name: str) -> str:
    """Return a page with its table made from the committed results."""
    table = _TABLES[name](committed(_SOURCES.get(name, name)))
    return filled(PAGES[name].read_text(encoding="utf-8"), name, table)


_TABLES: Final = {
    "backends": backends_table,
    "decoder": decoder_table,
    "concurrency": concurrency_table,
    "quality": quality_table,
    "quality-sets": quality_sets_table,
    "plan": plan_table,
    "calibration": calibration_table,
    "fusion": fusion_table,
    "long_documents": long_documents_table,
    "deadline": deadline_table,
    "cascade": cascade_table,
    "fuzz": fuzz_table,
    "ray": ray_table,
    "batch": batch_table,
    "servers": servers_table,
    "capacity": capacity_table,
    "one_process": one_process_table,
    "cpu": cpu_table,
    "soak": soak_table,
    "versions": version_table,
    "mutants": mutant_table,
    "speed": peers_table,
    "speed-cells": cells_table,
    "speed-scores": scores_table,
    "speed-targets": targets_table,
    "speed-claims": claims_table,
    "speed-profile": profile_table,
    "speed-profile-int8": int8_profile_table,
    "reliability-faults": faults_table,
    "golden": golden_table,
}


def main() -> None:
    """Renew all tables and plots."""
    for name, page in PAGES.items():
        page.write_text(renewed(name), encoding="utf-8")
    write_models()
    for theme, file in PLOTS.items():
        file.write_text(svg(committed("speed"), theme), encoding="utf-8")


def _rows(results: dict[str, Any]) -> Iterator[Row]:
    for name, rows in {
        "throughput": _throughput,
        "latency": _latency,
        "loop_lag": _loop_lag,
        "equality": _equality,
        "adapters": _adapters,
        "soak": _soak,
        "overlap": _overlap,
    }.items():
        if name in results:
            yield from rows(results[name])


def _throughput(found: dict[str, Any]) -> Iterator[Row]:
    speed = found["pairs_per_s"]
    who = f"{found['callers']} callers, {found['pairs']} pairs ({found['documents_are']}s)"
    one, theirs = found["over_rank_many"], found["over_sentence_transformers"]
    yield Row(
        f"{who}, throughput over one `rank_many`, {found['dtype']}",
        "at least 0.9",
        f"{one:.2f} ({speed['callers']:.0f} and {speed['rank_many']:.0f} pairs/s)",
        one >= 0.9,  # noqa: PLR2004
    )
    yield Row(
        f"the same over sentence-transformers behind `asyncio.to_thread`, {found['dtype']}",
        "at least 1.5",
        f"{theirs:.2f} ({speed['callers']:.0f} and {speed['sentence_transformers']:.0f} pairs/s)",
        theirs >= 1.5,  # noqa: PLR2004
    )
    yield Row(
        f'the same with our `dtype="auto"` ({found["dtype_auto"]}), theirs {found["dtype"]}',
        "",
        f"{found['auto_over_sentence_transformers']:.2f} ({speed['callers_auto']:.0f} pairs/s)",
    )


def _latency(found: dict[str, Any]) -> Iterator[Row]:
    yield Row(
        f"10 pairs arriving during a job of {found['job_pairs']} ({found['dtype']}): median "
        "latency over that alone",
        "at most 4",
        f"{found['ratio']:.2f} ({found['beside_ms']['p50']:.0f} and "
        f"{found['alone_ms']['p50']:.0f} ms, {found['repeats']} times)",
        found["ratio"] <= 4,  # noqa: PLR2004
    )


def _loop_lag(found: dict[str, Any]) -> Iterator[Row]:
    load, idle = found["load_ms"], found["idle_ms"]
    yield Row(
        f"event loop lag while {found['callers']} callers tokenize and score, p99",
        "under 20 ms",
        f"{load['p99']:.1f} ms (p50 {load['p50']:.1f}, largest {load['max']:.0f}; without "
        f"load p99 {idle['p99']:.1f})",
        load["p99"] < 20,  # noqa: PLR2004
    )


def _equality(found: dict[str, Any]) -> Iterator[Row]:
    difference = found["largest_difference"]
    yield Row(
        f"{found['requests']} requests at once ({found['threads']} threads, {found['loops']} "
        f"event loops, {len(found['max_lengths'])} `max_length`): largest difference from the "
        f"pair alone, {found['dtype']}",
        "at most 1e-5, none missing",
        f"{difference:.1e} over {found['pairs']} scores, {found['missing']} missing",
        difference <= TOLERANCE and found["missing"] == 0,
    )


def _adapters(found: dict[str, Any]) -> Iterator[Row]:
    yield Row(
        f"{found['adapters']} adapter objects of one model: memory over that of one",
        "1",
        f"{found['ratio']:.3f} ({found['first_adapter_mib']:.0f} MiB for the first, "
        f"{found['other_adapters_mib']:.1f} MiB for all others; {found['models']} model)",
        found["models"] == 1 and found["ratio"] < 1.05,  # noqa: PLR2004
    )


def _soak(found: dict[str, Any]) -> Iterator[Row]:
    memory, threads = found["resident_mib"], found["threads"]
    yield Row(
        f"{found['seconds'] / 60:.0f} minutes of mixed load ({found['requests']} requests, "
        f"{found['cancelled']} cancelled): growth",
        "memory flat, no thread",
        f"{found['mib_per_minute']:+.2f} MiB a minute ({memory['after_a_third']:.0f} to "
        f"{memory['end']:.0f} MiB), {threads['end'] - threads['after_a_third']:+d} threads",
        abs(found["mib_per_minute"]) < 1 and threads["end"] <= threads["after_a_third"],
    )


def _overlap(found: dict[str, Any]) -> Iterator[Row]:
    yield Row(
        f"{found['pairs']} pairs, tokenized while others are scored ({found['dtype']}): "
        "throughput over tokenizing first",
        "",
        f"{found['gain']:.2f} (tokenizing takes {found['share_of_tokenizing']:.1%} of the work)",
    )


def _machine(results: dict[str, Any]) -> str:
    machines = [found["environment"] for found in results.values()]
    about = machines[0]
    commits = ", ".join(dict.fromkeys(one["commit"] for one in machines))
    return (
        f"Measured on {about['cores']} cores of {about['cpu']}, Python {about['python']}, "
        f"{versions(about)}; commit {commits}. Everything, with every round, stands in "
        "`benchmarks/results/concurrency.json`; `python -m benchmarks.concurrency` makes it "
        "anew, and `python -m benchmarks.tables` this table."
    )


if __name__ == "__main__":
    main()
